use syntha_mesh::{ErrorKind, Filter, Guard, Topic};

use crate::Bed;

#[tokio::test]
async fn an_agent_sees_what_is_for_it_now() {
    let bed = Bed::new().await;
    let (ann, ben) = (bed.mesh.agent("ann").unwrap(), bed.mesh.agent("ben").unwrap());
    ann.push("all", 1).await.unwrap();
    ann.push("for-ben", 2).agents(["ben"]).await.unwrap();
    ann.push("on-topic", 3).topic("news").await.unwrap();
    ann.push("both", 4).topic("news").agents(["ben"]).await.unwrap();
    ann.push("nobody", 5).restricted().await.unwrap();
    let keys = async |agent: &syntha_mesh::Agent| {
        agent.keys(&Filter::new()).await.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(keys(&ben).await, ["all", "both", "for-ben"]);
    assert_eq!(keys(&ann).await, ["all"]);
    ann.subscribe(["news"]).await.unwrap();
    assert_eq!(keys(&ann).await, ["all", "both", "on-topic"]);
    assert_eq!(ann.get::<u8>("on-topic").await.unwrap(), Some(3));
    ann.unsubscribe(["news"]).await.unwrap();
    assert_eq!(ann.get::<u8>("on-topic").await.unwrap(), None);
    assert_eq!(ben.get::<u8>("nobody").await.unwrap(), None);
    assert_eq!(bed.mesh.value("nobody").await.unwrap().unwrap().json(), "5");
}

#[tokio::test]
async fn a_name_that_is_registered_again_inherits_no_mail() {
    let bed = Bed::new().await;
    let (ann, ben) = (bed.mesh.agent("ann").unwrap(), bed.mesh.agent("ben").unwrap());
    ann.push("letter", "for the first ben").agents(["ben"]).await.unwrap();
    assert!(ben.get::<String>("letter").await.unwrap().is_some());
    assert!(bed.mesh.unregister_agent("ben").await.unwrap());
    assert_eq!(ben.get::<String>("letter").await.unwrap(), None);
    assert!(bed.mesh.register_agent("ben").await.unwrap());
    assert_eq!(ben.get::<String>("letter").await.unwrap(), None);
    assert_eq!(bed.again().await.agent("ben").unwrap().get::<String>("letter").await.unwrap(), None);
}

#[tokio::test]
async fn a_hidden_entry_is_neither_overwritten_nor_removed() {
    let bed = Bed::new().await;
    let (ann, ben, eve) =
        (bed.mesh.agent("ann").unwrap(), bed.mesh.agent("ben").unwrap(), bed.mesh.agent("eve").unwrap());
    ann.push("secret", 1).agents(["ben"]).await.unwrap();
    assert_eq!(eve.push("secret", 2).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(!eve.remove("secret", None).await.unwrap());
    assert_eq!(ben.get::<u8>("secret").await.unwrap(), Some(1));
    ann.push("secret", 3).agents(["ben"]).await.expect("its author may");
    assert!(ben.remove("secret", None).await.expect("who sees it may"));
}

#[tokio::test]
async fn permissions_bind_posting_and_hearing() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    let news = Topic::new("news").unwrap();
    bed.mesh.set_post_permissions("ann", Some(vec![news.clone()])).await.unwrap();
    ann.push("a", 1).topic("news").await.unwrap();
    assert_eq!(ann.push("b", 1).topic("other").await.unwrap_err().kind(), ErrorKind::Denied);
    bed.mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    assert_eq!(ann.subscribe(["news"]).await.unwrap_err().kind(), ErrorKind::NotFound);
    bed.mesh.set_read_permissions("ann", None).await.unwrap();
    ann.subscribe(["news"]).await.unwrap();
    assert_eq!(ann.get::<u8>("a").await.unwrap(), Some(1));
    bed.mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    assert_eq!(ann.get::<u8>("a").await.unwrap(), None, "a narrowed agent stops hearing");
}

#[tokio::test]
async fn delete_topic_takes_what_is_on_it_alone() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.subscribe(["x", "y"]).await.unwrap();
    ann.push("only", 1).topic("x").await.unwrap();
    ann.push("two", 2).topics(["x", "y"]).await.unwrap();
    ann.push("named", 3).topic("x").agents(["ann"]).await.unwrap();
    let report = bed.mesh.delete_topic("x").await.unwrap();
    assert_eq!((report.entries_deleted, report.entries_kept, report.subscribers), (1, 2, 1));
    for mesh in [bed.mesh.clone(), bed.again().await] {
        let ann = mesh.agent("ann").unwrap();
        assert_eq!(ann.get::<u8>("only").await.unwrap(), None);
        assert_eq!(ann.get::<u8>("two").await.unwrap(), Some(2));
        assert_eq!(ann.get::<u8>("named").await.unwrap(), Some(3));
        assert_eq!(mesh.size().await.unwrap(), 2);
    }
    assert_eq!(bed.mesh.delete_topic("x").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_handle_ends_with_its_session() {
    let bed = Bed::new().await;
    let (guard, revoker) = Guard::new();
    let ann = bed.mesh.guarded(guard).agent("ann").unwrap();
    ann.push("a", 1).await.unwrap();
    let clone = ann.clone();
    let push = clone.push("b", 1);
    revoker.revoke();
    assert_eq!(ann.get::<u8>("a").await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(push.await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(clone.keys(&Filter::new()).await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(bed.mesh.size().await.unwrap(), 1, "other sessions go on");
}
