//! Cross-origin resource sharing (Fetch standard, section 3.3) for routes that say so. Pure.

use crate::endpoints::origin::Origin;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, header::ORIGIN};
use std::time::Duration;

/// Fields of an answer that a page may read beside those that every page may (Fetch standard, section 2.2.2).
const EXPOSED: HeaderValue =
    HeaderValue::from_static("WWW-Authenticate, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id");

/// How all fields of the protocol begin.
const PREFIX: &str = "access-control-";

/// Header fields for an answer.
pub(super) type Fields = Vec<(HeaderName, HeaderValue)>;

/// Which pages may call a route and read its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Origins,
    max_age: Duration,
}

/// Whose pages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origins {
    /// Everybody's, but never with credentials that the browser adds by itself.
    Any,
    /// Those of these origins, as browsers write them.
    Listed { origins: Vec<HeaderValue>, credentials: bool },
}

impl Cors {
    /// For the pages of every origin, without credentials.
    pub fn any(max_age: Duration) -> Self {
        Self { origins: Origins::Any, max_age }
    }

    /// For the pages of these origins; with `credentials` the browser may add cookies and the like.
    pub fn listed(origins: &[Origin], credentials: bool, max_age: Duration) -> Self {
        let written = |origin: &Origin| HeaderValue::try_from(origin.to_string()).ok();
        let origins = origins.iter().filter_map(written).collect();
        Self { origins: Origins::Listed { origins, credentials }, max_age }
    }

    /// What an answer to this request carries, a refusal too.
    pub(super) fn answer(&self, request: &HeaderMap) -> Fields {
        let mut fields = Fields::new();
        if self.allow(request, &mut fields) {
            fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED));
        }
        fields
    }

    /// What the answer to a preflight carries: leave to use `methods`, and the header fields it asks about.
    pub(super) fn preflight(&self, request: &HeaderMap, methods: &[Method]) -> Fields {
        let mut fields = Fields::new();
        if !self.allow(request, &mut fields) {
            return fields;
        }
        let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
        let mut put = |name, value: &str| fields.extend(HeaderValue::from_str(value).ok().map(|v| (name, v)));
        put(header::ACCESS_CONTROL_ALLOW_METHODS, &methods.join(", "));
        if let Some(names) = requested_fields(request) {
            put(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        put(header::ACCESS_CONTROL_MAX_AGE, &self.max_age.as_secs().to_string());
        fields
    }

    /// Whether the request's page may read the answer; and the fields that tell it.
    fn allow(&self, request: &HeaderMap, fields: &mut Fields) -> bool {
        let (origins, credentials) = match &self.origins {
            Origins::Any => {
                fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")));
                return true;
            }
            Origins::Listed { origins, credentials } => (origins, *credentials),
        };
        // Whoever stores the answer must not give one page what another was told.
        fields.push((header::VARY, HeaderValue::from_static("Origin")));
        let Some(origin) = single(request, &ORIGIN).and_then(|sent| origins.iter().find(|one| *one == sent))
        else {
            return false;
        };
        fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
        if credentials {
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        true
    }
}

/// The method a preflight asks about; `None` if this is another request. Only what has all three marks is one
/// (Fetch standard, section 4.8): an `OPTIONS` that merely looks like it must not pass without a token.
pub(super) fn preflight_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let asked = single(headers, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// Whether a field of an answer belongs to the protocol.
pub(super) fn is_cors(name: &HeaderName) -> bool {
    name.as_str().starts_with(PREFIX)
}

/// The names a preflight asks about, as they came, if they are names and nothing else.
fn requested_fields(request: &HeaderMap) -> Option<&str> {
    let names = single(request, &header::ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let is_name = |name: &str| HeaderName::from_bytes(name.trim().as_bytes()).is_ok();
    names.split(',').all(is_name).then_some(names)
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "https://app.example.com";
    const TEN_MINUTES: Duration = Duration::from_secs(600);

    fn listed(credentials: bool) -> Cors {
        Cors::listed(&[Origin::parse(APP).unwrap()], credentials, TEN_MINUTES)
    }

    fn request(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn text(fields: &Fields) -> Vec<String> {
        let line = |(name, value): &(HeaderName, HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        fields.iter().map(line).collect()
    }

    #[test]
    fn a_listed_origin_is_echoed_exactly_and_nobody_else_gets_a_field() {
        let told = text(&listed(true).answer(&request(&[("origin", APP)])));
        assert_eq!(
            told,
            [
                "vary: Origin",
                "access-control-allow-origin: https://app.example.com",
                "access-control-allow-credentials: true",
                "access-control-expose-headers: WWW-Authenticate, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id",
            ]
        );
        for other in [
            &[][..],
            &[("origin", "null")],
            &[("origin", "*")],
            &[("origin", "http://app.example.com")],
            &[("origin", "https://app.example.com:8443")],
            &[("origin", "https://app.example.com.evil.test")],
            &[("origin", "https://evil.test,https://app.example.com")],
            &[("origin", APP), ("origin", APP)],
        ] {
            assert_eq!(text(&listed(true).answer(&request(other))), ["vary: Origin"], "{other:?}");
            assert_eq!(text(&listed(true).preflight(&request(other), &[])), ["vary: Origin"], "{other:?}");
        }
    }

    #[test]
    fn every_origin_is_one_answer_for_all_and_never_with_credentials() {
        let told = text(&Cors::any(TEN_MINUTES).answer(&request(&[("origin", "https://evil.test")])));
        assert_eq!(told.first().unwrap(), "access-control-allow-origin: *");
        assert!(!told.iter().any(|line| line.contains("credentials") || line.contains("vary")), "{told:?}");
        assert!(!text(&listed(false).answer(&request(&[("origin", APP)]))).join(" ").contains("credentials"));
    }

    #[test]
    fn a_preflight_is_told_methods_fields_and_for_how_long() {
        let asks =
            request(&[("origin", APP), ("access-control-request-headers", "authorization,content-type")]);
        let told = text(&listed(false).preflight(&asks, &[Method::GET, Method::PUT]));
        assert_eq!(
            told[2..],
            [
                "access-control-allow-methods: GET, PUT",
                "access-control-allow-headers: authorization,content-type",
                "access-control-max-age: 600",
            ]
        );
        for odd in ["a b", "a,,b", "a:b", ""] {
            let asks = request(&[("origin", APP), ("access-control-request-headers", odd)]);
            let told = text(&listed(false).preflight(&asks, &[Method::GET])).join("\n");
            assert!(!told.contains("allow-headers"), "{odd:?}: {told}");
        }
    }

    #[test]
    fn only_what_has_all_three_marks_is_a_preflight() {
        let all = [("origin", APP), ("access-control-request-method", "PUT")];
        assert_eq!(preflight_method(&Method::OPTIONS, &request(&all)), Some(Method::PUT));
        assert_eq!(preflight_method(&Method::GET, &request(&all)), None);
        assert_eq!(preflight_method(&Method::OPTIONS, &request(&all[..1])), None);
        assert_eq!(preflight_method(&Method::OPTIONS, &request(&all[1..])), None);
        let twice = [all[0], all[1], all[1]];
        assert_eq!(preflight_method(&Method::OPTIONS, &request(&twice)), None);
        let no_method = [all[0], ("access-control-request-method", "P T")];
        assert_eq!(preflight_method(&Method::OPTIONS, &request(&no_method)), None);
    }
}
