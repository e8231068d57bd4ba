fn copy(authority: &syntha::HostAuthority) -> syntha::HostAuthority {
    authority.clone()
}

fn main() {}
