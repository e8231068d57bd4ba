//! The signing key: one of it, kept as a key must be, and each checkpoint by the key of its size.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use syntha_audit::{FileSigner, MemorySigner, Signer, SignerKeys, TreeHead, origin};
use syntha_sqlite::Mode;
use syntha_store::{ErrorKind, Store};

use crate::{Memory, commits, create, key, sqlite, tag};

#[tokio::test(flavor = "multi_thread")]
async fn many_first_starts_make_one_key() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = folder.path().join(format!("{round}.key"));
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move {
                    let signer = FileSigner::open(path, &key().fingerprint()).await.unwrap();
                    signer.keys().await.unwrap().first().to_owned()
                })
            })
            .collect();
        let mut keys = std::collections::HashSet::new();
        for start in starts {
            keys.insert(start.await.unwrap());
        }
        assert_eq!(keys.len(), 1);
    }
    // Nothing is left beside the keys.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 20);
}

#[tokio::test]
async fn a_key_that_is_not_kept_as_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let deployment = key().fingerprint();
    FileSigner::open(&path, &deployment).await.unwrap();
    let refused = || async { FileSigner::open(&path, &deployment).await.unwrap_err().kind() };
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    for mode in [0o640, 0o604, 0o620, 0o400, 0o700] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(refused().await, ErrorKind::KeyRefused, "{mode:o}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    FileSigner::open(&path, &deployment).await.unwrap();
    let other = syntha_store::DeploymentKey::from_bytes([8; 32]).fingerprint();
    assert_eq!(FileSigner::open(&path, &other).await.unwrap_err().kind(), ErrorKind::KeyRefused);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(FileSigner::open(&link, &deployment).await.unwrap_err().kind(), ErrorKind::KeyRefused);
    std::fs::hard_link(&path, folder.path().join("second")).unwrap();
    assert_eq!(refused().await, ErrorKind::KeyRefused);
    std::fs::remove_file(folder.path().join("second")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for broken in ["", "{}", &text.replace("\"v\":1", "\"v\":2"), &text[..text.len() / 2]] {
        std::fs::write(&path, broken).unwrap();
        let kind = refused().await;
        assert!(matches!(kind, ErrorKind::KeyRefused | ErrorKind::Unsupported), "{kind:?}");
    }
    let kind = FileSigner::replace(&path, &deployment, TreeHead::EMPTY).await.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_signer_signs_only_what_extends_the_last() {
    let deployment = key().fingerprint();
    let folder = tempfile::tempdir().unwrap();
    let file = FileSigner::open(folder.path().join("key"), &deployment).await.unwrap();
    let memory = MemorySigner::new(&deployment).unwrap();
    let signers: [Arc<dyn Signer>; 2] = [Arc::new(file), Arc::new(memory)];
    for signer in signers {
        let first = TreeHead { size: 1, root: [1; 32] };
        let mut turn = signer.turn().await.unwrap();
        let note = turn.sign(first, &[]).await.unwrap();
        assert_eq!(signer.keys().await.unwrap().check(&note).unwrap(), first);
        assert_eq!((turn.pending(), turn.signed()), (Some(first), None));
        turn.settle(first).await.unwrap();
        drop(turn);
        assert_eq!(signer.signed().await.unwrap(), Some(first));
        let mut turn = signer.turn().await.unwrap();
        assert_eq!((turn.pending(), turn.signed()), (None, Some(first)));
        for other in [
            TreeHead { size: 1, root: [2; 32] },
            TreeHead { size: 2, root: [2; 32] },
            TreeHead { size: 0, root: TreeHead::EMPTY.root },
        ] {
            for proof in [vec![], vec![[3; 32]], vec![[3; 32], [4; 32]]] {
                assert_eq!(turn.sign(other, &proof).await.unwrap_err().kind(), ErrorKind::Tampered);
            }
        }
        assert_eq!(turn.settle(TreeHead::EMPTY).await.unwrap_err().kind(), ErrorKind::Tampered);
    }
}

#[tokio::test]
async fn each_checkpoint_is_by_the_key_of_its_size() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    let user = create(&store, 1).await;
    let old = store.checkpoint().await.unwrap();
    let before = store.signer_keys().await.unwrap();
    let thief = bed.signer.copy();
    let handover = store.rotate_signer().await.unwrap();
    commits(&user, 1).await;
    let new = store.checkpoint().await.unwrap();
    let keys = store.signer_keys().await.unwrap();
    assert_eq!(keys.keys().map(|(from, _)| from).collect::<Vec<_>>(), [0, old.head.size + 1]);
    // An auditor that had the first key follows.
    let mut followed = SignerKeys::new(before.origin(), 0, before.first()).unwrap();
    assert_eq!(followed.check(&new.note).unwrap_err().kind(), ErrorKind::Tampered);
    followed.add(&handover).unwrap();
    assert_eq!(followed, keys);
    assert_eq!(SignerKeys::parse(&keys.to_text().unwrap()).unwrap(), keys);
    for checkpoint in [&old, &new] {
        assert_eq!(keys.check(&checkpoint.note).unwrap(), checkpoint.head);
    }
    // The old key, which somebody kept, signs nothing that is new.
    let mut turn = thief.turn().await.unwrap();
    let proof = store.consistency(old.head.size, new.head.size).await.unwrap();
    let forged = turn.sign(new.head, &proof).await.unwrap();
    assert!(before.check(&forged).is_ok());
    assert_eq!(keys.check(&forged).unwrap_err().kind(), ErrorKind::Tampered);
    // The new key signs nothing that is old (CVE-2023-31439): not even its own signer does.
    let fresh = keys.keys().nth(1).unwrap().1.to_owned();
    let alone = SignerKeys::new(keys.origin(), 0, fresh).unwrap();
    assert!(alone.check(&new.note).is_ok());
    assert_eq!(alone.check(&old.note).unwrap_err().kind(), ErrorKind::Tampered);
    // A hand-over by anybody else, twice, or of another log.
    let other = Memory::new().open(&[]);
    let foreign = other.rotate_signer().await.unwrap();
    for mut list in [before.clone(), keys.clone()] {
        assert_eq!(list.add(&foreign).unwrap_err().kind(), ErrorKind::KeyRefused);
    }
    assert_eq!(keys.clone().add(&handover).unwrap_err().kind(), ErrorKind::KeyRefused);
    assert_eq!(before.clone().add(&old.note).unwrap_err().kind(), ErrorKind::KeyRefused);
    let text = keys.to_text().unwrap();
    for (from, to) in [("handover", "other"), ("\"v\":1", "\"v\":2"), ("\"from\":0", "\"from\":1")] {
        assert_ne!(text.replacen(from, to, 1), text);
        let parsed = SignerKeys::parse(&text.replacen(from, to, 1));
        // The first key's size is the reader's own affair; what a key says of the next one is not.
        assert!(parsed.is_err() || from == "\"from\":0");
    }
    let moved = text.replace(&format!("\"from\":{}", old.head.size + 1), "\"from\":0");
    assert_ne!(moved, text);
    assert_eq!(SignerKeys::parse(&moved).unwrap_err().kind(), ErrorKind::KeyRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_stops_the_log_until_it_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (folder.path().join("data"), folder.path().join("key"));
    let deployment = key().fingerprint();
    assert!(origin(&deployment).starts_with("syntha/"));
    let signer = FileSigner::open(&path, &deployment).await.unwrap();
    let store = sqlite(&data, Mode::Exclusive, Arc::new(signer)).await.unwrap();
    create(&store, 1).await;
    let last = store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let signer = FileSigner::open(&path, &deployment).await.unwrap();
    let store = sqlite(&data, Mode::Exclusive, Arc::new(signer)).await.unwrap();
    assert!(store.open(tag(1)).await.is_err());
    assert!(store.checkpoint().await.is_err());
    let _ = store.close().await;
    std::fs::remove_file(&path).unwrap();
    let signer = FileSigner::replace(&path, &deployment, last.head).await.unwrap();
    let store = sqlite(&data, Mode::Exclusive, Arc::new(signer)).await.unwrap();
    commits(&store.open(tag(1)).await.unwrap(), 2).await;
    assert_eq!(store.checkpoint().await.unwrap().head.size, last.head.size + 1);
    store.close().await.unwrap();
}
