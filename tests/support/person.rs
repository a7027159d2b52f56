//! What a person with a browser or an app does at the session endpoints.

use super::client::{Request, Response, delete, get, post};
use super::config::PASSWORD;
use super::gateway::Gateway;
use serde_json::{Value, json};

/// The name of the refresh cookie.
pub(crate) const COOKIE: &str = "__Secure-refresh_token";

/// What a login or a refresh gave.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) session: String,
}

impl Tokens {
    /// From a 200 in body delivery.
    #[track_caller]
    pub(crate) fn from_body(response: Response) -> Self {
        let response = response.expect(200);
        Self {
            access: response.member("accessToken"),
            refresh: response.member("refreshToken"),
            session: response.member("sessionId"),
        }
    }

    /// From a 200 in cookie delivery.
    #[track_caller]
    pub(crate) fn from_cookie(response: Response) -> Self {
        let response = response.expect(200);
        let cookie = set_cookie(&response).expect("a refresh cookie");
        let value = cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a pair").1;
        Self {
            access: response.member("accessToken"),
            refresh: value.to_owned(),
            session: response.member("sessionId"),
        }
    }
}

/// The `Set-Cookie` line of our cookie, if there is one.
pub(crate) fn set_cookie(response: &Response) -> Option<String> {
    let all = response.all("set-cookie");
    all.iter().find(|line| line.starts_with(&format!("{COOKIE}="))).map(ToString::to_string)
}

pub(crate) fn credentials(user: &str) -> Value {
    json!({ "username": user, "password": PASSWORD, "delivery": "body" })
}

/// A login request of an app.
pub(crate) fn login_request(user: &str) -> Request {
    post("/auth/login").json(&credentials(user))
}

/// A login request of a browser page of our own origin.
pub(crate) fn browser_login(user: &str) -> Request {
    post("/auth/login").same_origin().json(&json!({ "username": user, "password": PASSWORD }))
}

/// Logs alice in from an app.
#[track_caller]
pub(crate) fn login(gateway: &Gateway) -> Tokens {
    login_as(gateway, "alice")
}

#[track_caller]
pub(crate) fn login_as(gateway: &Gateway, user: &str) -> Tokens {
    Tokens::from_body(login_request(user).send(&gateway.address()))
}

/// Logs alice in from a browser.
#[track_caller]
pub(crate) fn login_in_browser(gateway: &Gateway) -> Tokens {
    Tokens::from_cookie(browser_login("alice").send(&gateway.address()))
}

pub(crate) fn refresh_request(token: &str) -> Request {
    post("/auth/refresh").json(&json!({ "refreshToken": token }))
}

/// Refreshes from an app.
#[track_caller]
pub(crate) fn refresh(gateway: &Gateway, token: &str) -> Response {
    refresh_request(token).send(&gateway.address())
}

pub(crate) fn browser_refresh(token: &str) -> Request {
    post("/auth/refresh").same_origin().cookie(&format!("{COOKIE}={token}"))
}

#[track_caller]
pub(crate) fn logout(gateway: &Gateway, token: &str) -> Response {
    post("/auth/logout").json(&json!({ "refreshToken": token })).send(&gateway.address())
}

/// The status of a call of the route under `/api` with an access token.
#[track_caller]
pub(crate) fn call(gateway: &Gateway, access: &str) -> u16 {
    get("/api/orders").bearer(access).send(&gateway.address()).status
}

#[track_caller]
pub(crate) fn sessions(gateway: &Gateway, access: &str) -> Vec<Value> {
    let body = get("/auth/sessions").bearer(access).send(&gateway.address()).expect(200).json();
    let list = body.as_array().or_else(|| body["sessions"].as_array());
    list.unwrap_or_else(|| panic!("no list of sessions in {body}")).clone()
}

#[track_caller]
pub(crate) fn end_session(gateway: &Gateway, access: &str, session: &str) -> Response {
    delete(&format!("/auth/sessions/{session}")).bearer(access).send(&gateway.address())
}
