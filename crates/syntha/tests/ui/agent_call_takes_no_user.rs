async fn read(agent: syntha::Agent, user: syntha::UserId) {
    let _ = agent.topics(user).await;
}

fn main() {}
