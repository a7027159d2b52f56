//! The words of a route's match: hosts, paths and prefixes, read once and compared with decoded segments.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::fmt;

/// Segments a pattern may have: far more than a path needs, few enough to walk recursively.
const MOST_SEGMENTS: usize = 64;

/// Why a text is not a path pattern or prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The first character is no slash.
    #[error("a path begins with `/`")]
    NoSlash,
    /// `//` inside.
    #[error("an empty segment (`//`) never matches; write one `/`")]
    EmptySegment,
    /// `.` or `..`.
    #[error("`.` and `..` never match; write the path they lead to")]
    DotSegment,
    /// `%`.
    #[error("paths are compared decoded; write the character itself instead of `%` and its code")]
    Escape,
    /// `?`, `#`, `\` or a control character.
    #[error("{0:?} cannot stand in a path; the query takes no part in routing")]
    BadCharacter(char),
    /// `**` before the end.
    #[error("`**` stands for the path so far and all below it, so only as the last segment: `/a/**`")]
    DoubleStarInside,
    /// Another `*`.
    #[error("`*` has no meaning here; write `{{name}}` for one segment or `/**` at the end")]
    Star,
    /// Braces that are no whole segment, or a bad name in them.
    #[error("`{{name}}` stands for a whole segment; its name is made of letters, digits and `_`")]
    BadParameter,
    /// A name twice.
    #[error("`{{{0}}}` appears twice; give each its own name")]
    RepeatedParameter(String),
    /// A prefix with a pattern in it.
    #[error("a prefix is plain text, without `{{name}}` and `**`")]
    NotPlain,
    /// A prefix that is `/` or ends in `/`.
    #[error("a prefix names at least one segment and does not end in `/`")]
    PrefixEnd,
    /// More than 64 segments.
    #[error("a path pattern has at most 64 segments")]
    TooLong,
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// Exactly this text, decoded.
    Literal(Box<str>),
    /// Any one segment that is not empty.
    Parameter(Box<str>),
}

/// Which paths a route serves: `/a/b` that path alone (`/a/b/` is another), `/a/{id}` with one segment that
/// is not empty, `/a/**` with `/a`, `/a/` and everything below.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    text: String,
    pub(super) segments: Vec<Segment>,
    pub(super) below: bool,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`] for anything that could never match, or not match what its writer meant.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        let (rest, below) = match rest.strip_suffix("**") {
            Some("") => (None, true),
            Some(head) => (Some(head.strip_suffix('/').ok_or(PatternError::Star)?), true),
            None => (Some(rest), false),
        };
        let mut segments = Vec::new();
        let mut texts = rest.into_iter().flat_map(|rest| rest.split('/')).peekable();
        while let Some(text) = texts.next() {
            // Only the end of `/a/` is an empty segment; with `/**` behind it, it would be `//`.
            if text.is_empty() && (below || texts.peek().is_some()) {
                return Err(PatternError::EmptySegment);
            }
            let segment = segment(text)?;
            if let Segment::Parameter(name) = &segment
                && segments.contains(&segment)
            {
                return Err(PatternError::RepeatedParameter(name.to_string()));
            }
            segments.push(segment);
        }
        if segments.len() > MOST_SEGMENTS {
            return Err(PatternError::TooLong);
        }
        Ok(Self { text: text.to_owned(), segments, below })
    }

    /// A path that the pattern matches, as it might stand in a request's target.
    pub fn example(&self) -> String {
        let segment = |segment: &Segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Parameter(_) => "/x".to_owned(),
        };
        let path: String = self.segments.iter().map(segment).collect();
        if path.is_empty() { "/".to_owned() } else { path }
    }

    /// Whether every path of this pattern has the prefix, so that stripping it always succeeds.
    pub fn lies_below(&self, prefix: &PathPrefix) -> bool {
        prefix.segments.len() <= self.segments.len()
            && prefix.segments.iter().zip(&self.segments).all(
                |(ours, theirs)| matches!(theirs, Segment::Literal(literal) if literal.as_ref() == ours.as_ref()),
            )
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn segment(text: &str) -> Result<Segment, PatternError> {
    if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return if good { Ok(Segment::Parameter(name.into())) } else { Err(PatternError::BadParameter) };
    }
    if let Some(bad) = text.chars().find(|c| matches!(c, '?' | '#' | '\\') || c.is_control()) {
        return Err(PatternError::BadCharacter(bad));
    }
    match text {
        "." | ".." => Err(PatternError::DotSegment),
        "**" => Err(PatternError::DoubleStarInside),
        _ if text.contains(['{', '}']) => Err(PatternError::BadParameter),
        _ if text.contains('*') => Err(PatternError::Star),
        _ if text.contains('%') => Err(PatternError::Escape),
        _ => Ok(Segment::Literal(text.into())),
    }
}

/// A prefix that is taken off a path before it is forwarded: whole segments, plain text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPrefix {
    text: String,
    segments: Vec<Box<str>>,
}

impl PathPrefix {
    /// Reads a prefix such as `/orders`.
    ///
    /// # Errors
    /// [`PatternError`], as for patterns, and for `/`, a `/` at the end, `{name}` and `**`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let pattern = PathPattern::parse(text)?;
        if pattern.below {
            return Err(PatternError::NotPlain);
        }
        let literal = |segment| match segment {
            Segment::Literal(text) if text.is_empty() => Err(PatternError::PrefixEnd),
            Segment::Literal(text) => Ok(text),
            Segment::Parameter(_) => Err(PatternError::NotPlain),
        };
        let segments = pattern.segments.into_iter().map(literal).collect::<Result<_, _>>()?;
        Ok(Self { text: pattern.text, segments })
    }

    /// What is left of a canonical path: it begins with `/`. `None` if the path does not have this prefix.
    pub fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        let mut rest = path;
        for segment in &self.segments {
            rest = rest.strip_prefix('/')?;
            let (first, _) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if decoded(first)? != segment.as_ref() {
                return None;
            }
            rest = rest.strip_prefix(first)?;
        }
        Some(if rest.is_empty() { "/" } else { rest })
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text that a piece of a canonical path stands for; `None` if it is not UTF-8, which a canonical path
/// never is.
pub(super) fn decoded(piece: &str) -> Option<Cow<'_, str>> {
    if piece.contains('%') {
        percent_decode_str(piece).decode_utf8().ok()
    } else {
        Some(Cow::Borrowed(piece))
    }
}

/// Why a text is not a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing is left without port and dot.
    #[error("a host has at least one character")]
    Empty,
    /// `*`.
    #[error("hosts are matched whole, without `*`; list each, or leave `hosts` out to serve all")]
    Wildcard,
    /// A scheme, a path or a user.
    #[error("a host is a name or address alone, without scheme, user or path")]
    NotAlone,
    /// Non-ASCII.
    #[error("clients send a host in ASCII; write it in its `xn--` form")]
    NotAscii,
    /// Any other character that no host has.
    #[error("{0:?} cannot stand in a host")]
    BadCharacter(char),
}

/// A host a route serves, compared without case, port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern(Box<str>);

impl HostPattern {
    /// Reads a host name or address; a port is ignored, an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// [`HostError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains('*') {
            return Err(HostError::Wildcard);
        }
        if text.contains(['/', '@']) {
            return Err(HostError::NotAlone);
        }
        if !text.is_ascii() {
            return Err(HostError::NotAscii);
        }
        let name = host_name(text);
        let (inside, v6) = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(inside) => (inside, true),
            None => (name.as_ref(), false),
        };
        let good = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') || (v6 && *c == ':');
        if let Some(bad) = inside.chars().find(|c| !good(c)) {
            return Err(HostError::BadCharacter(bad));
        }
        if inside.is_empty() { Err(HostError::Empty) } else { Ok(Self(name.into())) }
    }

    /// The host in lower case, without port and trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name in a `Host` field or authority: lower case, without port and one trailing dot.
pub fn host_name(authority: &str) -> Cow<'_, str> {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !is_within_brackets(name) => name,
        _ => authority,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Whether the text breaks off inside an IPv6 address, so that what follows its last colon is no port.
fn is_within_brackets(text: &str) -> bool {
    text.starts_with('[') && !text.ends_with(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_could_never_match_are_errors() {
        use PatternError as E;
        for (text, error) in [
            ("", E::NoSlash),
            ("a/b", E::NoSlash),
            ("**", E::NoSlash),
            ("//", E::EmptySegment),
            ("/a//b", E::EmptySegment),
            ("/a//**", E::EmptySegment),
            ("//**", E::EmptySegment),
            ("/a/./b", E::DotSegment),
            ("/..", E::DotSegment),
            ("/a%2Fb", E::Escape),
            ("/100%", E::Escape),
            ("/a?b=c", E::BadCharacter('?')),
            ("/a#b", E::BadCharacter('#')),
            ("/a\\b", E::BadCharacter('\\')),
            ("/a\tb", E::BadCharacter('\t')),
            ("/a/**/b", E::DoubleStarInside),
            ("/**/**", E::DoubleStarInside),
            ("/a/*", E::Star),
            ("/a**", E::Star),
            ("/***", E::Star),
            ("/a/*.html", E::Star),
            ("/{}", E::BadParameter),
            ("/{a-b}", E::BadParameter),
            ("/x{id}", E::BadParameter),
            ("/{id", E::BadParameter),
            ("/{id}/{id}", E::RepeatedParameter("id".into())),
        ] {
            assert_eq!(PathPattern::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(PathPattern::parse(&"/a".repeat(65)), Err(E::TooLong));
        for text in ["/", "/**", "/a", "/a/", "/a/**", "/{a}/b/{c}/**", "/a;b", "/é", "/@x/.well-known/a.b"]
        {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_prefix_is_stripped_at_segment_boundaries_only() {
        let strip = |prefix: &str, path| PathPrefix::parse(prefix).unwrap().strip(path);
        for (prefix, path, rest) in [
            ("/orders", "/orders/1", Some("/1")),
            ("/orders", "/orders/1/%2F;x", Some("/1/%2F;x")),
            ("/orders", "/orders", Some("/")),
            ("/orders", "/orders/", Some("/")),
            ("/orders", "/orders//x", Some("//x")),
            ("/orders", "/ordersx", None),
            ("/orders", "/orders%2Fx", None),
            ("/orders", "/Orders/1", None),
            ("/orders", "/", None),
            ("/a/b", "/a/b/c", Some("/c")),
            ("/a/b", "/a/bc", None),
            ("/a@b", "/a%40b/c", Some("/c")),
            ("/é", "/%C3%A9/c", Some("/c")),
        ] {
            assert_eq!(strip(prefix, path), rest, "{prefix} {path}");
        }
    }

    #[test]
    fn a_prefix_is_plain_whole_segments() {
        for text in ["/", "/a/", "/{a}", "/a/**", "/**", "a", "//a", "/a/.."] {
            assert!(PathPrefix::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_knows_whether_all_its_paths_have_a_prefix() {
        let prefix = PathPrefix::parse("/a/b").unwrap();
        for (pattern, below) in [
            ("/a/b", true),
            ("/a/b/**", true),
            ("/a/b/{c}", true),
            ("/a/**", false),
            ("/a/{b}/c", false),
            ("/a/bc", false),
        ] {
            assert_eq!(PathPattern::parse(pattern).unwrap().lies_below(&prefix), below, "{pattern}");
        }
    }

    #[test]
    fn hosts_ignore_case_port_and_one_trailing_dot() {
        for authority in
            ["API.example.com", "api.example.com:8443", "api.example.com.", "Api.Example.Com.:80"]
        {
            assert_eq!(host_name(authority), "api.example.com", "{authority}");
            assert_eq!(HostPattern::parse(authority).unwrap().as_str(), "api.example.com");
        }
        for (authority, name) in [
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("a..", "a."),
            ("a:b", "a:b"),
            ("a:80:90", "a:80"),
            ("", ""),
        ] {
            assert_eq!(host_name(authority), name, "{authority}");
        }
    }

    #[test]
    fn hosts_are_whole_names_in_ascii() {
        use HostError as E;
        for (text, error) in [
            ("", E::Empty),
            (":80", E::Empty),
            ("*.example.com", E::Wildcard),
            ("http://a", E::NotAlone),
            ("a/b", E::NotAlone),
            ("u@a", E::NotAlone),
            ("bücher.example", E::NotAscii),
            ("a b", E::BadCharacter(' ')),
            ("a:b", E::BadCharacter(':')),
            ("::1", E::BadCharacter(':')),
        ] {
            assert_eq!(HostPattern::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(HostPattern::parse("[::1]:80").unwrap().as_str(), "[::1]");
    }
}
