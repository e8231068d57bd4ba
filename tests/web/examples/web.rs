//! The service, asked by two users over loopback. A real one would serve until it is told to stop.

use std::collections::HashMap;

use serde_json::json;
use syntha::{UserId, UserManager};
use syntha_web_example::loopback::{request, send};
use syntha_web_example::{Service, router};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    let (users, host) = UserManager::builder().sqlite(folder).open().await?;
    let tokens = [("token-of-alice", "alice"), ("token-of-bob", "bob")];
    let tokens = tokens.map(|(token, user)| UserId::new(user).map(|user| (token.to_owned(), user)));
    let service = Service::new(users, host, tokens.into_iter().collect::<Result<HashMap<_, _>, _>>()?);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let app = router(service.clone());
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(server.into_future());

    let body = json!({ "value": { "theme": "dark" } });
    let put = request("PUT /context/preferences", Some("token-of-alice"), &[], Some(&body));
    assert_eq!(send(address, &put).await?.0, 200);
    let ask = |token| request("GET /context/preferences", token, &[], None);
    assert_eq!(send(address, &ask(Some("token-of-alice"))).await?, (200, body));
    assert_eq!(send(address, &ask(Some("token-of-bob"))).await?.0, 404);
    assert_eq!(send(address, &ask(None)).await?.0, 401);

    drop(stop);
    server.await??;
    service.shutdown().await?;
    Ok(())
}
