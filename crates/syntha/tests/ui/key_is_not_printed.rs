fn show(key: &syntha::store::DeploymentKey) {
    println!("{key:?}");
}

fn main() {}
