// SPDX-License-Identifier: Apache-2.0
//! Which path leads where, with the exact answers of those that lead nowhere.

use keylime_api::version::SUPPORTED;

use super::*;

fn at(method: &str, path: &str) -> Route {
    resolve(&method.parse().unwrap(), path, &SUPPORTED)
}

fn bad(text: &str) -> Route {
    Route::Refused(Refusal::bad_request(text))
}

fn not_allowed(text: &str, allow: &'static str) -> Route {
    Route::Refused(Refusal::method(text, allow))
}

const OTHER_METHODS: [&str; 5] = ["PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];

#[test]
fn every_version_has_every_resource() {
    for version in SUPPORTED {
        let in_version = |method, path| at(method, &format!("/v{version}{path}"));
        assert_eq!(in_version("GET", "/keys/pubkey"), Route::PublicKey);
        assert_eq!(in_version("POST", "/keys/ukey"), Route::UKey);
        assert_eq!(in_version("POST", "/keys/vkey"), Route::VKey);
        assert_eq!(in_version("GET", "/keys/verify"), Route::VerifyKey);
        assert_eq!(in_version("GET", "/quotes/identity"), Route::Identity(version));
        assert_eq!(in_version("GET", "/quotes/integrity"), Route::Integrity(version));
        let info = in_version("GET", "/agent/info");
        if version == ApiVersion::new(2, 1) {
            assert_eq!(info, bad("Not Implemented: Use /agent, /keys, or /quotes interfaces"));
        } else {
            assert_eq!(info, Route::AgentInfo(version));
        }
    }
    assert_eq!(at("GET", "/version"), Route::Version);
}

#[test]
fn a_version_that_is_not_enabled() {
    for (path, version) in [
        ("/v3.0/agents", "3.0"),
        ("/v2.0/quotes/identity", "2.0"),
        ("/v2.7", "2.7"),
        ("/v1.0/", "1.0"),
        ("/v2.55/keys/pubkey", "2.55"),
        ("/v2.5x", "2.5"),
        ("/v02.5/keys/pubkey", "02.5"),
    ] {
        for method in ["GET", "POST", "PUT", "HEAD"] {
            assert_eq!(at(method, path), bad(&format!("API version not supported: v{version}")), "{path}");
        }
    }
    // One version alone.
    let only_new = [ApiVersion::new(2, 6)];
    assert_eq!(resolve(&Method::GET, "/v2.5/agent/info", &only_new), bad("API version not supported: v2.5"));
    assert_eq!(resolve(&Method::GET, "/", &only_new), bad("Not Implemented: Use /2.6 or /version interfaces"));
}

#[test]
fn other_root_paths() {
    let text = "Not Implemented: Use /2.1, /2.2, /2.3, /2.4, /2.5, /2.6 or /version interfaces";
    for path in
        ["/", "/version/", "/versions", "/v2", "/v2.", "/v.5", "/vx.y/keys", "/v12345.1/keys", "/keys/pubkey", "*", ""]
    {
        assert_eq!(at("GET", path), bad(text), "{path}");
        assert_eq!(at("POST", path), bad(text), "{path}");
        for method in OTHER_METHODS {
            assert_eq!(at(method, path), not_allowed("Method is not supported", "GET, POST"));
        }
    }
}

#[test]
fn unknown_interfaces() {
    for path in ["/v2.5", "/v2.5/", "/v2.5/nothing", "/v2.5/keysx/pubkey", "/v2.1/agent/info", "/v2.5//keys"] {
        assert_eq!(at("GET", path), bad("Not Implemented: Use /agent, /keys, or /quotes interfaces"), "{path}");
        assert_eq!(at("POST", path), bad("Not Implemented: Use /keys or /notifications interfaces"), "{path}");
        for method in OTHER_METHODS {
            assert_eq!(at(method, path), not_allowed("Method is not supported", "GET, POST"));
        }
    }
}

#[test]
fn unknown_resources() {
    let keys_get = "URI not supported, only /pubkey and /verify are supported for GET in /keys interface";
    let keys_post = "URI not supported, only /ukey and /vkey are supported for POST in /keys interface";
    for path in ["/v2.5/keys", "/v2.5/keys/", "/v2.5/keys/x", "/v2.5/keys/pubkey/", "/v2.5/keys/a/b"] {
        assert_eq!(at("GET", path), bad(keys_get), "{path}");
        assert_eq!(at("POST", path), bad(keys_post), "{path}");
        for method in OTHER_METHODS {
            let text = "Method is not supported in /keys interface";
            assert_eq!(at(method, path), not_allowed(text, "GET, POST"));
        }
    }
    let quotes = "URI not supported, only /identity and /integrity are supported for GET in /quotes/ interface";
    for path in ["/v2.5/quotes", "/v2.5/quotes/", "/v2.5/quotes/x"] {
        assert_eq!(at("GET", path), bad(quotes));
        for method in ["POST"].iter().chain(&OTHER_METHODS) {
            let text = "Method is not supported in /quotes/ interface";
            assert_eq!(at(method, path), not_allowed(text, "GET"));
        }
    }
    let agent = "URI not supported, only /info is supported for GET in /agent interface";
    for path in ["/v2.5/agent", "/v2.5/agent/", "/v2.5/agent/x", "/v2.5/agent/info/"] {
        assert_eq!(at("GET", path), bad(agent));
        for method in ["POST"].iter().chain(&OTHER_METHODS) {
            let text = "Method is not supported in /agent interface";
            assert_eq!(at(method, path), not_allowed(text, "GET"));
        }
    }
    let notifications = "URI not supported, only /revocation is supported for POST in /notifications/ interface";
    for path in ["/v2.5/notifications", "/v2.5/notifications/", "/v2.5/notifications/x"] {
        assert_eq!(at("POST", path), bad(notifications));
        for method in ["GET"].iter().chain(&OTHER_METHODS) {
            let text = "Method is not supported in /notifications/ interface";
            assert_eq!(at(method, path), not_allowed(text, "POST"));
        }
    }
    assert_eq!(
        at("POST", "/v2.5/notifications/revocation"),
        Route::Refused(Refusal::new(501, "Revocation messages are not acted upon by this agent"))
    );
}

#[test]
fn existing_paths_with_another_method() {
    for (path, allow) in [
        ("/version", "GET"),
        ("/v2.5/agent/info", "GET"),
        ("/v2.5/keys/pubkey", "GET"),
        ("/v2.5/keys/verify", "GET"),
        ("/v2.5/keys/ukey", "POST"),
        ("/v2.5/keys/vkey", "POST"),
        ("/v2.5/quotes/identity", "GET"),
        ("/v2.5/quotes/integrity", "GET"),
    ] {
        let other = if allow == "GET" { "POST" } else { "GET" };
        for method in [other].iter().chain(&OTHER_METHODS) {
            assert_eq!(at(method, path), Route::WrongMethod(allow), "{method} {path}");
        }
    }
}
