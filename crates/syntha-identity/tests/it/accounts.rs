use std::collections::BTreeSet;
use std::time::Duration;

use syntha_identity::syntha_store::{Keyspace, Store, Timestamp};
use syntha_identity::{ErrorKind, Factor, Identity, IdentityAction, Scopes, SessionRequest, TokenRequest};

use crate::bed::{Bed, RIGHT, config, key, kind, opened, password, user};

#[tokio::test]
async fn an_account_is_what_was_set() {
    let bed = Bed::new().await;
    let (accounts, alice) = (bed.identity.accounts(), user("alice"));
    assert_eq!(kind(accounts.get(&alice).await), Some(ErrorKind::NotFound));
    accounts.create(&alice, Scopes::READ | Scopes::WRITE).await.unwrap();
    assert_eq!(kind(accounts.create(&alice, Scopes::ALL).await), Some(ErrorKind::AlreadyExists));
    let account = accounts.get(&alice).await.unwrap();
    assert_eq!(
        (account.user, account.rights, account.generation),
        (alice.clone(), Scopes::READ | Scopes::WRITE, 1)
    );
    assert!(!account.suspended && !account.has_password);
    accounts.set_password(&alice, password(RIGHT), Factor::Single).await.unwrap();
    accounts.suspend(&alice).await.unwrap();
    accounts.set_rights(&alice, Scopes::READ).await.unwrap();
    let account = accounts.get(&alice).await.unwrap();
    assert_eq!((account.rights, account.generation), (Scopes::READ, 4));
    assert!(account.suspended && account.has_password);
    accounts.resume(&alice).await.unwrap();
    accounts.remove_password(&alice).await.unwrap();
    accounts.revoke_all(&alice).await.unwrap();
    let account = accounts.get(&alice).await.unwrap();
    assert!(!account.suspended && !account.has_password && account.generation == 6);
    accounts.remove(&alice).await.unwrap();
    assert_eq!(kind(accounts.remove(&alice).await), Some(ErrorKind::NotFound));
    for missing in [
        kind(accounts.suspend(&alice).await),
        kind(accounts.resume(&alice).await),
        kind(accounts.set_rights(&alice, Scopes::ALL).await),
        kind(accounts.set_password(&alice, password(RIGHT), Factor::Single).await),
        kind(accounts.remove_password(&alice).await),
        kind(accounts.revoke_all(&alice).await),
        kind(bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await),
        kind(bed.identity.sessions().open(&alice, &SessionRequest::default()).await),
    ] {
        assert_eq!(missing, Some(ErrorKind::NotFound));
    }
}

#[tokio::test]
async fn weak_passwords_are_not_set() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    for weak in ["short", "fourteen chars", "password1234567"] {
        let set = bed.identity.accounts().set_password(&alice, password(weak), Factor::Single).await;
        assert_eq!(kind(set), Some(ErrorKind::WeakPassword), "{weak}");
    }
    bed.login(&alice, RIGHT).await.unwrap();
}

#[tokio::test]
async fn pages_give_every_account_once_over_all_spaces() {
    let bed = Bed::of(3, None).await;
    let names: BTreeSet<_> = (0..50).map(|n| format!("user {n}")).collect();
    for name in &names {
        bed.identity.accounts().create(&user(name), Scopes::READ).await.unwrap();
    }
    for limit in [1, 7, 50, 1_000] {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let page = bed.identity.accounts().list(next, limit).await.unwrap();
            assert!(page.accounts.len() <= limit);
            found.extend(page.accounts.into_iter().map(|account| account.user.as_str().to_owned()));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), names.len(), "{limit}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), names, "{limit}");
    }
    // Each space has its part.
    for store in &bed.stores {
        let space = store.deployment().await.unwrap();
        let scan = syntha_identity::syntha_store::Scan::heads(Keyspace::Accounts, 100);
        let part = space.scan(scan).await.unwrap().value.records.len();
        assert!((5..=35).contains(&part), "{part}");
    }
}

#[tokio::test]
async fn other_spaces_or_another_key_are_refused() {
    let bed = Bed::of(2, None).await;
    let mut spaces = opened(&bed.stores).await;
    let open = |spaces| Identity::open(spaces, config(&bed.clock, None));
    assert_eq!(kind(open(vec![spaces[0].clone()]).await), Some(ErrorKind::Refused));
    spaces.swap(0, 1);
    assert_eq!(kind(open(spaces).await), Some(ErrorKind::Refused));
    assert_eq!(kind(open(Vec::new()).await), Some(ErrorKind::Invalid));
    let other = syntha_identity::syntha_store::DeploymentKey::from_bytes([8; 32]);
    let opened =
        Identity::open(opened(&bed.stores).await, syntha_identity::IdentityConfig::new(&other)).await;
    assert_eq!(kind(opened), Some(ErrorKind::Refused));
    bed.second().await;
    // A user's own space is no place for accounts.
    let tag = key().tag(&user("alice"));
    let batch =
        syntha_identity::syntha_store::Batch::new(syntha_identity::syntha_store::Timestamp(1)).unwrap();
    let (kept, name) = (syntha_identity::syntha_store::Keyspace::Context, &b"k"[..]);
    let id = syntha_identity::syntha_store::RecordId::new(name, 0).unwrap();
    let batch = batch.put(kept, id, "", "1");
    let mode = syntha_identity::syntha_store::CreateMode::New;
    let (own, _) = bed.stores[0].create(tag, batch, mode).await.unwrap();
    assert_eq!(kind(open(vec![own]).await), Some(ErrorKind::Refused));
}

#[tokio::test]
async fn changes_at_one_time_are_all_made() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let second = bed.second().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let identity = if n % 2 == 0 { bed.identity.clone() } else { second.clone() };
        let alice = alice.clone();
        tasks.spawn(async move {
            identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap().1.id
        });
    }
    let made: BTreeSet<_> = tasks.join_all().await.into_iter().collect();
    let listed: BTreeSet<_> =
        bed.identity.tokens().list(&alice).await.unwrap().into_iter().map(|info| info.id).collect();
    assert_eq!(made.len(), 8);
    assert_eq!(listed, made);
}

#[tokio::test]
async fn what_is_removed_leaves_nothing_to_the_next_of_its_name() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let opened = bed.login(&alice, RIGHT).await.unwrap();
    let (token, _) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    bed.identity.accounts().remove(&alice).await.unwrap();
    assert_eq!(bed.count(Keyspace::Tokens).await + bed.count(Keyspace::Sessions).await, 0);
    assert_eq!(bed.count(Keyspace::Accounts).await, 0);
    let alice = bed.user("alice").await;
    assert_eq!(kind(opened.lease.check()), Some(ErrorKind::Denied));
    assert_eq!(kind(bed.identity.authenticate(&token).await), Some(ErrorKind::Denied));
    assert_eq!(kind(bed.identity.authenticate(&opened.secret).await), Some(ErrorKind::Denied));
    assert!(bed.identity.tokens().list(&alice).await.unwrap().is_empty());
}

#[tokio::test]
async fn everything_is_revoked_after_a_restore() {
    let bed = Bed::of(2, None).await;
    let second = bed.second().await;
    let (mut secrets, mut leases) = (Vec::new(), Vec::new());
    for n in 0..10 {
        let user = bed.user(&format!("user {n}")).await;
        let opened = bed.login(&user, RIGHT).await.unwrap();
        let request = TokenRequest::new(Scopes::READ);
        let (token, _) = bed.identity.tokens().create(&user, &request).await.unwrap();
        leases.extend([opened.lease, bed.identity.authenticate(&token).await.unwrap()]);
        secrets.extend([opened.secret, token]);
    }
    bed.identity.revoke_everything().await.unwrap();
    assert!(leases.iter().all(|lease| kind(lease.check()) == Some(ErrorKind::Denied)));
    for secret in &secrets {
        assert_eq!(kind(second.authenticate(secret).await), Some(ErrorKind::Denied));
    }
    assert!(bed.identity.tokens().list(&user("user 3")).await.unwrap().is_empty());
    bed.login(&user("user 3"), RIGHT).await.unwrap();
}

#[tokio::test]
async fn what_ended_long_ago_is_swept() {
    let bed = Bed::of(2, None).await;
    let alice = bed.user("alice").await;
    let short = TokenRequest::new(Scopes::READ).lifetime(Duration::from_secs(60));
    bed.identity.tokens().create(&alice, &short).await.unwrap();
    bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    bed.login(&alice, RIGHT).await.unwrap();
    bed.advance(60 * 60);
    assert_eq!(bed.identity.sweep().await.unwrap(), 0, "not before a day's grace");
    bed.advance(25 * 60 * 60);
    assert_eq!(bed.identity.sweep().await.unwrap(), 2);
    assert_eq!(bed.identity.sweep().await.unwrap(), 0);
    let account = bed.identity.accounts().get(&alice).await.unwrap();
    assert_eq!((account.tokens, account.sessions), (1, 0));
    assert_eq!((bed.count(Keyspace::Tokens).await, bed.count(Keyspace::Sessions).await), (1, 0));
}

#[tokio::test]
async fn nothing_is_swept_after_the_clock_has_jumped() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let (token, _) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    bed.clock.jump(Timestamp(9_000_000_000_000));
    assert_eq!(kind(bed.identity.sweep().await), Some(ErrorKind::Unavailable));
    assert_eq!(bed.count(Keyspace::Tokens).await, 1);
    bed.clock.jump(Timestamp(1_000_000_000_000));
    assert_eq!(bed.identity.sweep().await.unwrap(), 0);
    bed.identity.authenticate(&token).await.unwrap();
}

#[tokio::test]
async fn every_change_is_told_and_hides_who() {
    let bed = Bed::new().await;
    let alice = bed.user("alice-with-a-name").await;
    let accounts = bed.identity.accounts();
    let request = TokenRequest::new(Scopes::READ);
    let (token, info) = bed.identity.tokens().create(&alice, &request).await.unwrap();
    let opened = bed.login(&alice, RIGHT).await.unwrap();
    let rotated = bed.identity.sessions().rotate(&opened.secret, None).await.unwrap();
    bed.identity.sessions().end(&rotated.secret).await.unwrap();
    bed.identity.sessions().open(&alice, &SessionRequest::default()).await.unwrap();
    bed.identity.tokens().revoke(&alice, info.id).await.unwrap();
    bed.identity.authenticate(&token).await.unwrap_err();
    accounts.set_rights(&alice, Scopes::READ).await.unwrap();
    accounts.suspend(&alice).await.unwrap();
    accounts.resume(&alice).await.unwrap();
    accounts.forgive(&alice).await.unwrap();
    accounts.remove_password(&alice).await.unwrap();
    accounts.revoke_all(&alice).await.unwrap();
    accounts.remove(&alice).await.unwrap();
    let told: Vec<_> = bed.told.lock().iter().map(|event| event.action).collect();
    use IdentityAction::*;
    assert_eq!(
        told,
        [
            CreateAccount,
            SetPassword,
            CreateToken,
            Login,
            RotateSession,
            EndSession,
            OpenSession,
            RevokeToken,
            Authenticate,
            SetRights,
            Suspend,
            Resume,
            Forgive,
            RemovePassword,
            RevokeAll,
            RemoveAccount
        ]
    );
    let mut shown = format!("{:?} {:?}", bed.told.lock(), bed.identity);
    shown += &format!("{:?}", accounts.get(&alice).await);
    assert!(!shown.contains("alice") && !shown.contains(RIGHT) && !shown.contains(token.expose()));
}
