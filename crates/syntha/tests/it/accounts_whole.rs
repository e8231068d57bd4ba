//! Accounts through what is done to a whole deployment, and what its trail and its files hold of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use syntha::keys::make_key_file;
use syntha::store::UserId;
use syntha::{
    AuditAction, AuditQuery, AuditScope, AuditVerdict, Encryption, ErrorKind, Factor, HashingCost, Kek,
    Migration, Password, Scopes, Secret, SessionRequest, Source, TokenRequest, UserManager, restore_all,
    seal_folder, unseal_folder,
};

use crate::archives::{plain, sealed};
use crate::audit::entries;

const PASSWORD: &str = "a quite long sentence of somebody's";

fn password() -> Password {
    Password::new(PASSWORD).unwrap()
}

async fn login(users: &UserManager, user: &str) -> syntha::Result<syntha::LoggedIn> {
    users.login(user, password(), &Source::new("here"), &SessionRequest::default()).await
}

/// An account with a password, and a token of it.
async fn account(users: &UserManager, user: &str) -> Secret {
    users.accounts().create(user, Scopes::ALL).await.unwrap();
    users.accounts().set_password(user, password(), Factor::Single).await.unwrap();
    users.accounts().create_token(user, &TokenRequest::new(Scopes::ALL)).await.unwrap().0
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The files that hold accounts, of whatever users there are.
fn account_files(users: &UserManager, data: &Path) -> Vec<PathBuf> {
    let of_accounts = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        (0..4).any(|number| {
            let space = UserId::stored(format!("\0accounts/{number}"));
            name.starts_with(&users.tag(space).unwrap().to_string())
        })
    };
    files(data).into_iter().filter(of_accounts).collect()
}

#[tokio::test]
async fn accounts_that_were_put_back_are_refused_until_somebody_takes_them() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let token = account(&users, "alice").await;
    account(&users, "bob").await;
    let places = account_files(&users, &data);
    users.shutdown().await.unwrap();
    drop(host);
    let places: Vec<_> = places.into_iter().filter(|path| path.is_file()).collect();
    assert_eq!(places.len(), 4, "{places:?}");
    let older: Vec<_> = places.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let (users, host) = sealed(&data).await;
    users.accounts().suspend("alice").await.unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    for (path, bytes) in places.iter().zip(&older) {
        std::fs::write(path, bytes).unwrap();
    }
    let (users, _host) = sealed(&data).await;
    assert_eq!(users.enter(&token).await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(login(&users, "alice").await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(users.accounts().get("alice").await.unwrap_err().kind(), ErrorKind::Tampered);
    users.accounts().accept_older().await.unwrap();
    assert_eq!(users.enter(&token).await.unwrap_err().kind(), ErrorKind::Denied, "tokens have ended");
    login(&users, "alice").await.unwrap();
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn accounts_that_are_gone_are_missed() {
    let (_folder, data) = super::data();
    let (users, host) = plain(&data).await;
    account(&users, "alice").await;
    let places = account_files(&users, &data);
    users.shutdown().await.unwrap();
    drop(host);
    places.iter().filter(|path| path.is_file()).for_each(|path| std::fs::remove_file(path).unwrap());
    let (users, _host) = plain(&data).await;
    let error = login(&users, "alice").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tampered, "no empty accounts in their place");
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_backup_brings_accounts_back_without_tokens_and_sessions() {
    let (folder, data) = super::data();
    let backup = folder.path().join("backup");
    let (users, host) = sealed(&data).await;
    let (token, other) = (account(&users, "alice").await, account(&users, "bob").await);
    users.accounts().suspend("bob").await.unwrap();
    let session = login(&users, "alice").await.unwrap();
    session.session.agent("a").unwrap().push("k", "of alice").await.unwrap();
    let report = users.backup_all(&backup, |_| {}).await.unwrap();
    assert_eq!(report.users, 2);
    users.shutdown().await.unwrap();
    drop((host, session.session));
    let place = folder.path().join("elsewhere");
    let key = || Some(Encryption::new(Kek::file(folder.path().join("data.key"))));
    let report = crate::backup::unlocked(async || restore_all(&backup, &place, key(), |_| {}).await).await;
    assert_eq!((report.restored, report.empty), (1, 1), "bob never wrote");
    let (users, _host) =
        UserManager::builder().sqlite(&place).encryption(key().unwrap()).open().await.unwrap();
    for secret in [&token, &other, &session.id] {
        assert_eq!(users.enter(secret).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    let again = login(&users, "alice").await.unwrap().session;
    assert_eq!(again.agent("a").unwrap().get::<String>("k").await.unwrap().unwrap(), "of alice");
    assert_eq!(login(&users, "bob").await.unwrap_err().kind(), ErrorKind::Denied, "suspended");
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn sealing_and_unsealing_carry_accounts_over() {
    let (folder, data) = super::data();
    make_key_file(folder.path().join("data.key")).unwrap();
    let (users, host) = plain(&data).await;
    let token = account(&users, "alice").await;
    users.shutdown().await.unwrap();
    drop(host);
    let key = || Encryption::new(Kek::file(folder.path().join("data.key")));
    let report = seal_folder(&data, key(), Migration::new(), |_| {}).await.unwrap();
    assert_eq!(report.users, 0, "alice has not written: her mesh was never opened");
    let (users, host) = sealed(&data).await;
    login(&users, "alice").await.unwrap();
    let now = users.accounts().create_token("alice", &TokenRequest::new(Scopes::READ)).await.unwrap().0;
    users.enter(&now).await.unwrap();
    assert_eq!(users.enter(&token).await.unwrap_err().kind(), ErrorKind::Denied, "copies end tokens");
    let epochs = async || {
        let mut epochs = Vec::new();
        for number in 0..4 {
            let space = UserId::stored(format!("\0accounts/{number}"));
            epochs.push(format!("{:?}", users.key_status(space, false).await.unwrap()));
        }
        epochs
    };
    let before = epochs().await;
    users.rotate_all_keys(|_, _| {}).await.unwrap();
    assert!(
        epochs().await.iter().zip(&before).all(|(now, before)| now != before),
        "accounts are rotated too"
    );
    login(&users, "alice").await.unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    std::fs::remove_dir_all(data.with_file_name("data.plain")).unwrap();
    unseal_folder(&data, key(), Migration::new(), |_| {}).await.unwrap();
    let (users, _host) = plain(&data).await;
    login(&users, "alice").await.unwrap();
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_trail_tells_of_logins_tokens_and_accounts_and_is_not_filled_by_guessers() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let token = account(&users, "alice").await;
    users.enter(&token).await.unwrap().agent("a").unwrap().push("k", 1).await.unwrap();
    users.accounts().revoke_token("alice", token.id()).await.unwrap();
    let session = login(&users, "alice").await.unwrap().session;
    session.flush_audit().await.unwrap();
    let left = login(&users, "alice").await.unwrap();
    users.logout(&left.id).await.unwrap();
    users.logout(&left.id).await.unwrap();
    session.flush_audit().await.unwrap();
    users.accounts().suspend("alice").await.unwrap();
    users.accounts().resume("alice").await.unwrap();
    let own = AuditScope::User(UserId::new("alice").unwrap());
    let ended = entries(&users, &own, AuditQuery::new().action(AuditAction::EndSession)).await;
    let ended: Vec<_> = ended
        .iter()
        .map(|entry| entry.event.as_ref().unwrap().target.as_ref().unwrap().text().to_string())
        .collect();
    assert_eq!(ended, [format!("session {}", left.id.id())], "a logout is told, once");
    for action in [AuditAction::OpenSession, AuditAction::Login] {
        let told = entries(&users, &own, AuditQuery::new().action(action)).await;
        let event = told[0].event.as_ref().unwrap();
        assert_eq!(event.verdict, AuditVerdict::Done);
        assert!(event.target.is_some() && event.session.is_some(), "{event:?}");
    }
    for action in [
        AuditAction::CreateAccount,
        AuditAction::SetPassword,
        AuditAction::CreateToken,
        AuditAction::RevokeToken,
        AuditAction::SuspendAccount,
        AuditAction::ResumeAccount,
    ] {
        let told = entries(&users, &AuditScope::Deployment, AuditQuery::new().action(action)).await;
        let ends: Vec<_> = told.iter().map(|entry| entry.event.as_ref().unwrap().verdict).collect();
        assert_eq!(ends, [AuditVerdict::Begun, AuditVerdict::Done], "{action:?}");
    }
    let links = || async {
        let all = entries(&users, &AuditScope::Deployment, AuditQuery::new()).await;
        all.last().unwrap().seq
    };
    let before = links().await;
    let text = token.expose().to_owned();
    let mut guesses = 0;
    for number in 0..200 {
        let user = format!("user-{}", number % 40);
        let request = SessionRequest::default();
        let guess = users.login(user.as_str(), password(), &Source::new(format!("{number}")), &request).await;
        assert!(matches!(guess.unwrap_err().kind(), ErrorKind::Denied | ErrorKind::Throttled));
        assert_eq!(users.enter(&Secret::parse(&text).unwrap()).await.unwrap_err().kind(), ErrorKind::Denied);
        guesses += 1;
    }
    users.shutdown().await.unwrap();
    drop((host, session));
    let (users, _host) = sealed(&data).await;
    let told = entries(&users, &AuditScope::Deployment, AuditQuery::new().action(AuditAction::Login)).await;
    let counted: u64 = told.iter().map(|entry| entry.event.as_ref().unwrap().count).sum();
    assert_eq!(counted, guesses, "nothing is left out");
    let named = told.iter().filter(|entry| entry.event.as_ref().unwrap().target.is_some()).count();
    assert!(named <= 64, "{named}: 16 in 10 s");
    let told =
        entries(&users, &AuditScope::Deployment, AuditQuery::new().action(AuditAction::Authenticate)).await;
    assert!(told.iter().all(|entry| entry.event.as_ref().unwrap().target.is_none()));
    let all = entries(&users, &AuditScope::Deployment, AuditQuery::new()).await;
    assert!(all.last().unwrap().seq - before < 40, "links do not grow with guesses");
    let report = users.audit().unwrap().verify(&AuditScope::All, true).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.data.len(), 1, "alice's");
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn no_file_holds_a_token_a_password_or_when_sealed_a_users_id() {
    for is_sealed in [true, false] {
        let (folder, data) = super::data();
        let (users, host) = if is_sealed { sealed(&data).await } else { plain(&data).await };
        let mut secrets = Vec::new();
        for number in 0..20 {
            let user = format!("user-of-id-{number:02}");
            secrets.push(account(&users, &user).await.expose().to_owned());
            secrets.push(login(&users, &user).await.unwrap().id.expose().to_owned());
        }
        let scan = |folder: &Path| {
            for path in files(folder) {
                // One that is only for a moment may be gone.
                let Ok(bytes) = std::fs::read(&path) else { continue };
                // What is no UTF-8 hides no ASCII.
                let text = String::from_utf8_lossy(&bytes);
                let holds = |secret: &str| text.contains(secret);
                for secret in &secrets {
                    assert!(!holds(secret) && !holds(&secret[8..51]), "{}", path.display());
                }
                assert!(!holds(PASSWORD));
                if is_sealed {
                    assert!(!holds("user-of-id-"), "{}", path.display());
                }
            }
        };
        scan(folder.path());
        users.shutdown().await.unwrap();
        drop(host);
        scan(folder.path());
    }
}

/// As many hash at once as may; whoever reads and writes meanwhile is never refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logins_refuses_nobody_who_is_in() {
    let (_folder, data) = super::data();
    let cost = HashingCost::new(19 * 1024, 2, 1).unwrap();
    let builder = UserManager::builder().sqlite(&data).plain().no_audit();
    let (users, host) =
        builder.accounts(move |config| Ok(config.hashing(cost).hashing_at_once(1))).open().await.unwrap();
    let token = account(&users, "alice").await;
    let session = users.enter(&token).await.unwrap();
    let agent = session.agent("a").unwrap();
    let users = Arc::new(users);
    let mut logins = tokio::task::JoinSet::new();
    let many = std::env::var("SYNTHA_LOGINS").ok().and_then(|many| many.parse().ok()).unwrap_or(200);
    for number in 0..many {
        let users = Arc::clone(&users);
        logins.spawn(async move {
            let source = Source::new(format!("source-{number}"));
            let request = SessionRequest::default();
            users.login("alice", Password::new("wrong, and long enough").unwrap(), &source, &request).await
        });
    }
    let (mut done, mut operations) = (0, 0_u64);
    while done < many {
        agent.push("k", operations).await.unwrap();
        assert_eq!(agent.get::<u64>("k").await.unwrap(), Some(operations));
        operations += 1;
        let load = users.accounts().hashing().await.unwrap();
        assert!(load.running <= 1, "{load:?}");
        while let Some(login) = logins.try_join_next() {
            let kind = login.unwrap().unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::Denied | ErrorKind::Busy | ErrorKind::Throttled), "{kind:?}");
            done += 1;
        }
    }
    assert!(operations > 0);
    let peak = users.accounts().hashing().await.unwrap().peak;
    assert_eq!(peak, 1);
    println!(
        "evidence: {many} logins at once, {peak} hashing at most, {operations} writes and reads of another session meanwhile, 0 refused"
    );
    drop((session, agent, host));
    Arc::into_inner(users).unwrap().shutdown().await.unwrap();
}

/// Who is suspended or erased after a backup began is so in what it leaves.
#[tokio::test]
async fn a_backup_that_goes_on_has_accounts_as_they_are_at_its_end() {
    let (folder, data) = super::data();
    let backup = folder.path().join("backup");
    let (users, host) = sealed(&data).await;
    for number in 0..12 {
        let user = format!("user-{number}");
        account(&users, &user).await;
        let session = users.open(&host, user.as_str()).await.unwrap();
        session.agent("a").unwrap().push("k", number).await.unwrap();
    }
    assert!(crate::backup::stopped(14, async |progress| users.backup_all(&backup, progress).await).await);
    users.accounts().suspend("user-1").await.unwrap();
    users.erase("user-2").await.unwrap();
    users.backup_all(&backup, |_| {}).await.unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    let place = folder.path().join("elsewhere");
    let key = || Some(Encryption::new(Kek::file(folder.path().join("data.key"))));
    crate::backup::unlocked(async || restore_all(&backup, &place, key(), |_| {}).await).await;
    let (users, _host) =
        UserManager::builder().sqlite(&place).encryption(key().unwrap()).open().await.unwrap();
    assert_eq!(login(&users, "user-1").await.unwrap_err().kind(), ErrorKind::Denied, "suspended");
    assert_eq!(users.accounts().get("user-2").await.unwrap_err().kind(), ErrorKind::NotFound);
    login(&users, "user-3").await.unwrap();
    users.shutdown().await.unwrap();
}

/// An account that stayed behind does not open a new life.
#[tokio::test]
async fn a_new_life_has_no_account_of_the_old_one() {
    let (_folder, data) = super::data();
    let (users, _host) = plain(&data).await;
    let users = Arc::new(users);
    for round in 0..10 {
        let user = format!("user-{round}");
        users.create(user.as_str()).await.unwrap();
        let (other, name) = (Arc::clone(&users), user.clone());
        let made = tokio::spawn(async move { other.accounts().create(name.as_str(), Scopes::ALL).await });
        users.erase(user.as_str()).await.unwrap();
        let _ = made.await.unwrap();
        users.recreate(user.as_str()).await.unwrap();
        assert_eq!(
            users.accounts().get(user.as_str()).await.unwrap_err().kind(),
            ErrorKind::NotFound,
            "{round}"
        );
    }
    Arc::into_inner(users).unwrap().shutdown().await.unwrap();
}
