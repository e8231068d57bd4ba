//! Errors as answers. Their texts are fixed: no key, value, agent or user is in them.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use syntha::{ErrorKind, MeshError, MeshErrorKind};

pub(crate) enum Failure {
    /// No token, or one that nobody has: the two are one answer.
    Unauthenticated,
    Absent,
    Refused(StatusCode, String),
    /// The service's own trouble. What it is goes to the service's log and not to its clients.
    Broken {
        retryable: bool,
    },
}

impl From<syntha::Error> for Failure {
    fn from(error: syntha::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => return Self::Absent,
            // The token is good, and its user is no more.
            ErrorKind::Erased | ErrorKind::Gone => StatusCode::GONE,
            _ => return Self::Broken { retryable: error.is_retryable() },
        };
        Self::Refused(status, error.to_string())
    }
}

impl From<MeshError> for Failure {
    fn from(error: MeshError) -> Self {
        let status = match error.kind() {
            MeshErrorKind::Invalid => StatusCode::BAD_REQUEST,
            MeshErrorKind::NotFound => return Self::Absent,
            MeshErrorKind::Denied => StatusCode::FORBIDDEN,
            MeshErrorKind::Conflict => StatusCode::CONFLICT,
            MeshErrorKind::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
            MeshErrorKind::Gone | MeshErrorKind::SessionEnded => StatusCode::GONE,
            _ => return Self::Broken { retryable: error.is_retryable() },
        };
        Self::Refused(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Unauthenticated => {
                let text = Json(json!({ "error": "authenticate with a bearer token" }));
                return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], text).into_response();
            }
            Self::Absent => (StatusCode::NOT_FOUND, "there is nothing here for you".to_owned()),
            Self::Refused(status, text) => (status, text),
            Self::Broken { retryable: true } => {
                (StatusCode::SERVICE_UNAVAILABLE, "the service is busy, try again later".to_owned())
            }
            Self::Broken { retryable: false } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the service failed".to_owned())
            }
        };
        (status, Json(json!({ "error": text }))).into_response()
    }
}
