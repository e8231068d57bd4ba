//! What users may use, over the life of their data: sessions, plans, restores, erasures.

use std::io::Cursor;

use syntha::store::archive::{Reader, write};
use syntha::store::{ChainHead, Incarnation, Snapshot, StoredRecord, UserState};
use syntha::{
    ContextMesh, ErrorKind, Limit, MeshErrorKind, ResourceLimits, Restore, UserLimits, UserManager, UserTag,
};

use crate::{data, open};

fn own(contexts: u64) -> UserLimits {
    UserLimits::new().own(ResourceLimits::new().max_contexts(contexts))
}

#[tokio::test]
async fn a_deployment_says_what_its_users_may_use() {
    let (_folder, data) = data();
    let limits = ResourceLimits::default().max_contexts(1_000).max_agents(10).storage_limit_mb(100);
    let (users, host) = UserManager::builder().sqlite(&data).limits(limits).open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    for n in 0..10 {
        session.agent(format!("agent-{n}")).unwrap().push("k", n).await.unwrap();
    }
    let error = session.agent("one more").unwrap().push("k", 1).await.unwrap_err();
    assert_eq!(error.kind(), MeshErrorKind::LimitExceeded);
    assert!(error.to_string().contains("agents: 10 of at most 10 agents"), "{error}");
    let error = syntha::Error::from(error);
    assert_eq!((error.kind(), error.exceeded().unwrap().limit), (ErrorKind::LimitExceeded, Limit::Agents));
    let report = users.limits("alice").await.unwrap();
    assert_eq!(report, session.usage_report().await.unwrap());
    assert_eq!(report.of(Limit::Storage).unwrap().most, Some(100_000_000));
    assert_eq!(report.of(Limit::Contexts).unwrap().remaining(), Some(999));
    assert_eq!(users.limits("nobody").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(users.set_limits("nobody", own(1)).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(session.set_limits(own(9)).await.unwrap_err().kind(), MeshErrorKind::Denied);
}

#[tokio::test]
async fn sessions_are_counted_while_they_are_used() {
    let (_folder, data) = data();
    let limits = ResourceLimits::new().max_sessions(2);
    let (users, host) = UserManager::builder().sqlite(&data).limits(limits).open().await.unwrap();
    let one = users.create_user_session(&host, "alice").await.unwrap();
    let two = users.open(&host, "alice").await.unwrap();
    let error = users.open(&host, "alice").await.unwrap_err();
    assert_eq!((error.kind(), error.exceeded().unwrap().limit), (ErrorKind::LimitExceeded, Limit::Sessions));
    users.create_user_session(&host, "bob").await.unwrap();
    let agent = one.agent("ann").unwrap();
    drop(one);
    assert_eq!(users.open(&host, "alice").await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    drop(agent);
    let _three = users.open(&host, "alice").await.unwrap();
    users.set_limits("alice", UserLimits::new().own(ResourceLimits::new().max_sessions(3))).await.unwrap();
    let _four = users.open(&host, "alice").await.unwrap();
    assert_eq!(users.limits("alice").await.unwrap().of(Limit::Sessions).unwrap().used, Some(3));
    assert_eq!(users.open(&host, "alice").await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    two.agent("ann").unwrap().push("k", 1).await.unwrap();
    two.end();
    let _five = users.open(&host, "alice").await.unwrap();
}

#[tokio::test]
async fn a_plan_that_is_forgotten_gives_nobody_more() {
    let (_folder, data) = data();
    let builder = || UserManager::builder().sqlite(&data);
    let team = ResourceLimits::new().max_contexts(2);
    let (users, host) = builder().plan("team", team).open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    users.set_limits("alice", UserLimits::new().plan("team").unwrap()).await.unwrap();
    let agent = session.agent("ann").unwrap();
    agent.push("k", 1).await.unwrap();
    agent.push("l", 1).await.unwrap();
    assert_eq!(agent.push("m", 1).await.unwrap_err().exceeded().unwrap().most, 2);
    drop((session, agent));
    users.shutdown().await.unwrap();
    drop(host);
    // A process that knows no plans.
    {
        let mesh = ContextMesh::open(&data, "alice").await.unwrap();
        let agent = mesh.agent("ann").unwrap();
        assert!(agent.remove("l", None).await.unwrap());
        mesh.undo_purge_all().await.unwrap();
        let error = agent.push("l", 1).await.unwrap_err();
        assert!(error.kind() == MeshErrorKind::LimitExceeded && error.exceeded().is_none());
        assert_eq!(agent.get::<u8>("k").await.unwrap(), Some(1));
        assert!(!mesh.usage_report().await.unwrap().plan_is_known);
    }
    let (users, host) = builder().plan("team", team).open().await.unwrap();
    let session = users.open(&host, "alice").await.unwrap();
    session.agent("ann").unwrap().push("l", 1).await.unwrap();
    let wrong = UserManager::builder().memory().plan("", team).open().await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_restore_keeps_the_present_limits() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    for key in ["a", "b", "c"] {
        session.agent("ann").unwrap().push(key, 1).await.unwrap();
    }
    let archive = async || {
        let mut archive = Vec::new();
        users.backup("alice", &mut archive).await.unwrap();
        Cursor::new(archive)
    };
    let bare = archive().await;
    users.set_limits("alice", own(100)).await.unwrap();
    let generous = archive().await;
    users.set_limits("alice", own(2)).await.unwrap();
    let given = async || users.limits("alice").await.unwrap().given;
    for (archive, how) in [
        (generous.clone(), Restore::new()),
        (bare.clone(), Restore::new()),
        (generous.clone(), Restore::new().archived_permissions()),
        (bare, Restore::new().archived_permissions()),
    ] {
        users.restore_with("alice", archive, how).await.unwrap();
        assert_eq!(given().await, own(2));
        let session = users.open(&host, "alice").await.unwrap();
        assert_eq!(session.agents().await.unwrap().len(), 1);
        // More is there than may be: nothing is added until enough was taken away.
        let ann = session.agent("ann").unwrap();
        assert_eq!(ann.push("d", 1).await.unwrap_err().exceeded().unwrap().used, 3);
        ann.push("a", 2).await.unwrap();
        assert_eq!(session.entries(&syntha::Filter::new()).await.unwrap().len(), 3);
    }
    // Nothing is set now, and the archive sets nothing.
    users.set_limits("alice", UserLimits::new()).await.unwrap();
    users.restore("alice", generous.clone()).await.unwrap();
    assert_eq!(given().await, UserLimits::new());
    users.shutdown().await.unwrap();
    drop(host);
    // It is in the data, and whole.
    let (users, _host) = open(&data).await;
    assert_eq!(users.limits("alice").await.unwrap().given, UserLimits::new());
}

#[tokio::test]
async fn a_new_life_begins_without_limits() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    users.create("alice").await.unwrap();
    assert!(users.set_limits("alice", own(0)).await.unwrap(), "also of a user who has not written");
    let session = users.open(&host, "alice").await.unwrap();
    assert_eq!(session.agent("ann").unwrap().push("k", 1).await.unwrap_err().exceeded().unwrap().most, 0);
    users.erase("alice").await.unwrap();
    users.recreate("alice").await.unwrap();
    let session = users.open(&host, "alice").await.unwrap();
    session.agent("ann").unwrap().push("k", 1).await.unwrap();
    assert_eq!(users.limits("alice").await.unwrap().given, UserLimits::new());
}

/// An archive that says it holds nothing.
struct Lying<S>(S);

#[async_trait::async_trait]
impl<S: Snapshot> Snapshot for Lying<S> {
    fn owner(&self) -> UserTag {
        self.0.owner()
    }

    fn state(&self) -> UserState {
        let mut state = self.0.state();
        state.usage.contexts = 0;
        state
    }

    fn life(&self) -> Option<Incarnation> {
        self.0.life()
    }

    fn follows(&self) -> Option<ChainHead> {
        self.0.follows()
    }

    async fn next(&mut self) -> syntha::store::Result<Option<Vec<StoredRecord>>> {
        self.0.next().await
    }
}

#[tokio::test]
async fn an_archive_that_says_less_than_it_holds_is_refused() {
    let (_folder, data) = data();
    let (users, host) = UserManager::builder().sqlite(&data).plain().no_audit().open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    users.set_limits("alice", own(1)).await.unwrap();
    session.agent("ann").unwrap().push("k", 1).await.unwrap();
    let mut whole = Vec::new();
    users.backup("alice", &mut whole).await.unwrap();
    let mut lying = Lying(Reader::open(Cursor::new(whole.clone())).unwrap());
    let mut less = Vec::new();
    write(&mut lying, &mut less).await.unwrap();
    let refused = users.restore("alice", Cursor::new(less)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert_eq!(users.limits("alice").await.unwrap().of(Limit::Contexts).unwrap().used, Some(1));
    users.restore("alice", Cursor::new(whole)).await.unwrap();
    assert_eq!(users.limits("alice").await.unwrap().of(Limit::Contexts).unwrap().used, Some(1));
}
