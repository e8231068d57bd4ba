//! Logins, tokens and sessions over the facade, on real files.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use syntha::store::UserId;
use syntha::{
    ErrorKind, Factor, HostAuthority, MeshErrorKind, Password, Scopes, Secret, SessionRequest, Source,
    TokenRequest, UserManager,
};

const PASSWORD: &str = "a quite long sentence of alice's";

async fn opened(data: &Path) -> (UserManager, HostAuthority) {
    UserManager::builder().sqlite(data).open().await.unwrap()
}

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

fn here() -> Source {
    Source::new("127.0.0.1")
}

async fn account(users: &UserManager, user: &str) {
    users.accounts().create(user, Scopes::ALL).await.unwrap();
    users.accounts().set_password(user, password(PASSWORD), Factor::Single).await.unwrap();
}

async fn login(users: &UserManager, user: &str) -> Result<syntha::LoggedIn, syntha::Error> {
    users.login(user, password(PASSWORD), &here(), &SessionRequest::default()).await
}

#[tokio::test]
async fn who_knows_the_password_gets_the_own_mesh_and_nobody_else_gets_any() {
    let (_folder, data) = super::data();
    let (users, host) = opened(&data).await;
    account(&users, "alice").await;
    account(&users, "bob").await;
    let alice = login(&users, "alice").await.unwrap();
    alice.session.agent("a").unwrap().push("k", "of alice").await.unwrap();
    let bob = login(&users, "bob").await.unwrap();
    assert!(bob.session.agent("a").unwrap().get::<String>("k").await.unwrap().is_none());
    // The id opens the same again, also after a start.
    let again = users.enter(&alice.id).await.unwrap();
    assert_eq!(again.agent("a").unwrap().get::<String>("k").await.unwrap().unwrap(), "of alice");
    let refused = |user: &'static str, text: &'static str| {
        let users = &users;
        async move { users.login(user, password(text), &here(), &SessionRequest::default()).await.unwrap_err() }
    };
    users.accounts().create("carol", Scopes::ALL).await.unwrap();
    users.accounts().suspend("bob").await.unwrap();
    let errors = [
        refused("alice", "another quite long sentence").await,
        refused("nobody", PASSWORD).await,
        refused("carol", PASSWORD).await,
        refused("bob", PASSWORD).await,
    ];
    for error in &errors {
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.to_string(), errors[0].to_string(), "one answer");
    }
    // The spaces of accounts are nobody's.
    let names: Vec<_> =
        users.list(None, 10).await.unwrap().iter().map(|entry| entry.user.as_str().to_owned()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(users.totals().await.unwrap().users, 3);
    users.shutdown().await.unwrap();
    drop((alice.session, bob.session, again, host));
    let (users, _host) = opened(&data).await;
    let again = users.enter(&alice.id).await.unwrap();
    assert_eq!(again.agent("a").unwrap().get::<String>("k").await.unwrap().unwrap(), "of alice");
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_revocation_ends_every_handle_at_once() {
    let (_folder, data) = super::data();
    let (users, _host) = opened(&data).await;
    account(&users, "alice").await;
    type End = fn(&UserManager, Secret, syntha::SecretId) -> Pin<Box<dyn Future<Output = ()> + '_>>;
    let ends: [(&str, bool, End); 6] = [
        ("revoke_token", true, |users, _, id| {
            Box::pin(async move { users.accounts().revoke_token("alice", id).await.unwrap() })
        }),
        ("logout", false, |users, secret, _| Box::pin(async move { users.logout(&secret).await.unwrap() })),
        ("end_session", false, |users, _, id| {
            Box::pin(async move { users.accounts().end_session("alice", id).await.unwrap() })
        }),
        ("revoke_all", true, |users, _, _| {
            Box::pin(async move { users.accounts().revoke_all("alice").await.unwrap() })
        }),
        ("revoke_everything", true, |users, _, _| {
            Box::pin(async move { users.accounts().revoke_everything().await.unwrap() })
        }),
        ("set_rights", false, |users, _, _| {
            Box::pin(async move { users.accounts().set_rights("alice", Scopes::ALL).await.unwrap() })
        }),
    ];
    for (name, by_token, end) in ends {
        let (secret, session) = if by_token {
            let (token, _) =
                users.accounts().create_token("alice", &TokenRequest::new(Scopes::ALL)).await.unwrap();
            let session = users.enter(&token).await.unwrap();
            (token, session)
        } else {
            let login = login(&users, "alice").await.unwrap();
            (login.id, login.session)
        };
        let (mesh, agent) = ((**session).clone(), session.agent("a").unwrap());
        agent.push("k", 1).await.unwrap();
        let mut watch = mesh.watch(syntha::WatchConfig::new()).await.unwrap();
        let id = secret.id();
        end(&users, Secret::parse(secret.expose()).unwrap(), id).await;
        assert_eq!(agent.push("k", 2).await.unwrap_err().kind(), MeshErrorKind::SessionEnded, "{name}");
        assert_eq!(agent.get::<u8>("k").await.unwrap_err().kind(), MeshErrorKind::SessionEnded, "{name}");
        assert_eq!(mesh.size().await.unwrap_err().kind(), MeshErrorKind::SessionEnded, "{name}");
        let mut given = 0;
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                match watch.next().await {
                    Some(Ok(_)) => given += 1,
                    Some(Err(error)) => break error.kind() == MeshErrorKind::SessionEnded,
                    None => break true,
                }
            }
        });
        assert!(ended.await.unwrap(), "{name}: {given}");
        assert_eq!(users.enter(&secret).await.unwrap_err().kind(), ErrorKind::Denied, "{name}");
    }
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_session_may_what_its_scopes_say_and_a_bound_one_is_one_agent() {
    let (_folder, data) = super::data();
    let (users, host) = opened(&data).await;
    users.accounts().create("alice", Scopes::READ | Scopes::WRITE).await.unwrap();
    let all = SessionRequest::default();
    let session = users.sign_in(&host, "alice", &all).await.unwrap().session;
    // No more than the account may, whatever is asked for.
    assert_eq!(session.agent("a").unwrap().push("k", 1).await.unwrap_err().kind(), MeshErrorKind::Denied);
    assert_eq!(session.export(&mut Vec::new(), |_| {}).await.unwrap_err().kind(), MeshErrorKind::Denied);
    users.accounts().set_rights("alice", Scopes::ALL).await.unwrap();
    let session = users.sign_in(&host, "alice", &all).await.unwrap().session;
    session.agent("reader").unwrap().push("k", 1).await.unwrap();
    session.agent("other").unwrap().push("other", 1).await.unwrap();
    let token = TokenRequest::new(Scopes::READ | Scopes::WRITE).agent("reader");
    let (token, info) = users.accounts().create_token("alice", &token).await.unwrap();
    assert_eq!(info.agent.as_deref(), Some("reader"));
    let bound = users.enter(&token).await.unwrap();
    assert_eq!(bound.bound_to().unwrap().as_str(), "reader");
    let reader = bound.agent("reader").unwrap();
    reader.push("k", 2).await.unwrap();
    assert_eq!(reader.get::<u8>("k").await.unwrap(), Some(2));
    // Neither another agent nor the user.
    let other = bound.agent("other").unwrap();
    assert_eq!(other.get::<u8>("other").await.unwrap_err().kind(), MeshErrorKind::Denied);
    assert_eq!(other.push("k", 3).await.unwrap_err().kind(), MeshErrorKind::Denied);
    assert_eq!(bound.value("k").await.unwrap_err().kind(), MeshErrorKind::Denied);
    assert_eq!(bound.push("k", 3).await.unwrap_err().kind(), MeshErrorKind::Denied);
    assert!(bound.watch(syntha::WatchConfig::new()).await.is_err());
    // A session that is opened inside it is bound as well.
    let (guard, _revoker) = syntha::mesh::Guard::new();
    let inner = bound.guarded(guard);
    assert_eq!(inner.agent("other").unwrap().push("k", 3).await.unwrap_err().kind(), MeshErrorKind::Denied);
    // Rights that are taken away are gone from a token in use.
    users.accounts().set_rights("alice", Scopes::READ).await.unwrap();
    assert_eq!(reader.push("k", 4).await.unwrap_err().kind(), MeshErrorKind::Denied);
    assert_eq!(reader.get::<u8>("k").await.unwrap(), Some(2));
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_suspension_shuts_every_door_and_an_erasure_removes_the_account() {
    let (_folder, data) = super::data();
    let (users, host) = opened(&data).await;
    account(&users, "alice").await;
    let (token, _) = users.accounts().create_token("alice", &TokenRequest::new(Scopes::ALL)).await.unwrap();
    let (by_token, logged_in) = (users.enter(&token).await.unwrap(), login(&users, "alice").await.unwrap());
    users.accounts().suspend("alice").await.unwrap();
    for session in [&by_token, &logged_in.session] {
        assert_eq!(session.size().await.unwrap_err().kind(), MeshErrorKind::SessionEnded);
    }
    assert_eq!(users.enter(&token).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(users.enter(&logged_in.id).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(login(&users, "alice").await.unwrap_err().kind(), ErrorKind::Denied);
    let request = SessionRequest::default();
    assert_eq!(users.sign_in(&host, "alice", &request).await.unwrap_err().kind(), ErrorKind::Denied);
    users.accounts().resume("alice").await.unwrap();
    users.enter(&token).await.unwrap().size().await.unwrap();
    assert_eq!(users.enter(&logged_in.id).await.unwrap_err().kind(), ErrorKind::Denied);
    let session = login(&users, "alice").await.unwrap().session;
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    users.erase("alice").await.unwrap();
    assert!(matches!(
        session.size().await.unwrap_err().kind(),
        MeshErrorKind::SessionEnded | MeshErrorKind::Gone
    ));
    assert_eq!(users.accounts().get("alice").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(users.enter(&token).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(login(&users, "alice").await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(users.accounts().create("alice", Scopes::ALL).await.unwrap_err().kind(), ErrorKind::Erased);
    users.recreate("alice").await.unwrap();
    assert_eq!(users.accounts().get("alice").await.unwrap_err().kind(), ErrorKind::NotFound);
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn nobody_reaches_the_accounts_by_a_users_name() {
    let (_folder, data) = super::data();
    let (users, host) = opened(&data).await;
    account(&users, "alice").await;
    for number in 0..4 {
        let name = || UserId::stored(format!("\0accounts/{number}"));
        assert!(UserId::new(name().as_str()).is_err());
        let errors = [
            users.open(&host, name()).await.unwrap_err(),
            users.create_user_session(&host, name()).await.unwrap_err(),
            users.create(name()).await.unwrap_err(),
            users.recreate(name()).await.unwrap_err(),
            users.erase(name()).await.unwrap_err(),
            users.backup(name(), &mut Vec::new()).await.unwrap_err(),
            users.restore(name(), std::io::Cursor::new(Vec::new())).await.unwrap_err(),
            users.accounts().create(name(), Scopes::ALL).await.unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Invalid), "{errors:?}");
    }
    users.shutdown().await.unwrap();
}
