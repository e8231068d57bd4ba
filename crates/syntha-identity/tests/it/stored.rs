//! What is stored: nothing that opens anything, and in a sealed space no name of a user.

use std::sync::Arc;

use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, SecretKey};
use syntha_identity::syntha_store::{Keyspace, MemoryStore, Scan, Store};
use syntha_identity::{Identity, Scopes, Secret, SessionRequest, TokenRequest};

use crate::bed::{Bed, RIGHT, WRONG, config, key, kind, user};

fn holds(record: &[u8], what: &[u8]) -> bool {
    record.windows(what.len()).any(|part| part == what)
}

async fn secrets(identity: &Identity) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for n in 0..20 {
        let user = user(&format!("canary-{n}"));
        let request = TokenRequest::new(Scopes::READ).agent("canary-agent").label("canary-label");
        secrets.push(identity.tokens().create(&user, &request).await.unwrap().0);
        secrets.push(identity.sessions().open(&user, &SessionRequest::default()).await.unwrap().secret);
    }
    secrets
}

#[tokio::test]
async fn a_dump_holds_no_usable_token() {
    let bed = Bed::of(2, None).await;
    for n in 0..20 {
        bed.user(&format!("canary-{n}")).await;
    }
    let secrets = secrets(&bed.identity).await;
    for secret in &secrets {
        bed.identity.authenticate(secret).await.unwrap();
    }
    bed.login(&user("canary-3"), WRONG).await.unwrap_err();
    let dump = bed.dump().await;
    assert_eq!(dump.iter().filter(|(space, _)| *space == Keyspace::Tokens).count(), 20);
    for (space, record) in &dump {
        assert!(!holds(record, b"syn_"), "{space:?}");
        assert!(!holds(record, RIGHT.as_bytes()) && !holds(record, WRONG.as_bytes()), "{space:?}");
        for secret in &secrets {
            assert!(!holds(record, &secret.expose().as_bytes()[8..]), "{space:?}");
        }
    }
    // Nor is what is stored of a token one: its hash, its id, its record's name.
    for (_, record) in &dump {
        for part in record.split(|byte| !byte.is_ascii_alphanumeric()).filter(|part| part.len() >= 16) {
            let text = std::str::from_utf8(part).unwrap();
            for guess in [text.to_owned(), format!("syn_pat_{text}"), format!("syn_ses_{text}")] {
                assert!(Secret::parse(&guess).is_err());
            }
        }
    }
}

#[tokio::test]
async fn names_of_records_are_keyed() {
    let bed = Bed::new().await;
    for n in 0..20 {
        bed.user(&format!("canary-{n}")).await;
    }
    secrets(&bed.identity).await;
    let space = bed.stores[0].deployment().await.unwrap();
    for keyspace in [Keyspace::Accounts, Keyspace::Tokens, Keyspace::Sessions, Keyspace::Throttle] {
        let page = space.scan(Scan::heads(keyspace, 1_000)).await.unwrap().value;
        for (head, _) in page.records {
            assert!(!holds(head.id.name(), b"canary") && head.head.is_empty() && head.expires.is_none());
            if keyspace != Keyspace::Throttle {
                assert_eq!((head.id.name().len(), head.id.seq()), (32, 0));
            }
        }
    }
}

#[tokio::test]
async fn a_sealed_space_names_no_user() {
    let below = Arc::new(MemoryStore::new().unwrap());
    let keystore = Keystore::open(Arc::new(MemoryStore::new().unwrap())).await.unwrap();
    let kek = Kek::from_key(SecretKey::from_bytes(b"a key of a test, which is no key"));
    let chain = Keychain::create(keystore, &kek, Mode::Sealed, &key(), KeyCache::default()).await.unwrap();
    let sealed = EncryptedStore::new(Arc::clone(&below) as Arc<dyn Store>, &chain).unwrap();
    let bed = Bed::new().await;
    let space = sealed.deployment().await.unwrap();
    let identity = Identity::open(vec![space], config(&bed.clock, None)).await.unwrap();
    for n in 0..20 {
        identity.accounts().create(&user(&format!("canary-{n}")), Scopes::ALL).await.unwrap();
    }
    let secrets = secrets(&identity).await;
    crate::bed::login(&identity, &user("canary-3"), WRONG).await.unwrap_err();
    let mut records = 0;
    let raw = below.deployment().await.unwrap();
    for keyspace in Keyspace::all() {
        for (head, body) in raw.scan(Scan::records(keyspace, 10_000)).await.unwrap().value.records {
            records += 1;
            for part in [head.id.name(), &head.head, &body.unwrap_or_default()] {
                for canary in ["canary", "argon2", "\"v\":1"] {
                    assert!(!holds(part, canary.as_bytes()), "{keyspace:?} shows {canary}");
                }
            }
        }
    }
    assert!(records > 60, "{records}");
    // It works as any other, also when it is opened again.
    let again =
        Identity::open(vec![sealed.deployment().await.unwrap()], config(&bed.clock, None)).await.unwrap();
    for secret in &secrets {
        again.authenticate(secret).await.unwrap();
    }
    again.accounts().revoke_all(&user("canary-0")).await.unwrap();
    assert!(kind(again.authenticate(&secrets[0]).await).is_some());
}

#[tokio::test]
async fn errors_and_debug_name_nobody() {
    let bed = Bed::new().await;
    let canary = bed.user("canary").await;
    let opened = bed.login(&canary, RIGHT).await.unwrap();
    let (token, info) =
        bed.identity.tokens().create(&canary, &TokenRequest::new(Scopes::READ)).await.unwrap();
    let lease = bed.identity.authenticate(&token).await.unwrap();
    let mut shown =
        format!("{opened:?} {token:?} {info:?} {lease:?} {:?} {:?}", bed.identity, crate::bed::home());
    shown += &format!("{:?} {:?}", bed.identity.accounts().get(&canary).await, crate::bed::password(RIGHT));
    for error in [
        bed.login(&canary, WRONG).await.unwrap_err(),
        bed.identity.tokens().create(&user("canary 2"), &TokenRequest::new(Scopes::READ)).await.unwrap_err(),
        bed.identity.accounts().create(&canary, Scopes::READ).await.unwrap_err(),
        Secret::parse("syn_pat_canary").unwrap_err(),
    ] {
        shown += &format!("{error} {error:?}");
    }
    for secret in ["canary", RIGHT, WRONG, &token.expose()[8..], &opened.secret.expose()[8..]] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("syn_pat_***") && shown.contains("syn_ses_***"));
}
