//! The one form of a request's path: what routes are matched with is what the upstream is sent.
//!
//! A path that two readers could read differently is refused rather than mended, since what a reader
//! behind us makes of it cannot be known. Some ambiguous forms a route may allow for an upstream that
//! reads them as we do; the others are errors always.

use std::fmt;

/// Times an escape may turn out to be escaped again before the path is refused unread.
const MOST_DECODINGS: usize = 4;

/// An ambiguous form that a route may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Oddity {
    /// `%2F`; allowed, it stays within its segment.
    EncodedSlash,
    /// `\`.
    Backslash,
    /// `%5C`.
    EncodedBackslash,
    /// `;`.
    Semicolon,
    /// `%3B`.
    EncodedSemicolon,
    /// `%3F`.
    EncodedQuestionMark,
    /// `%23`.
    EncodedHash,
    /// `//`, also as the decoded form or between `/` and `;`.
    EmptySegment,
    /// A segment that ends in a dot, plain or encoded.
    TrailingDot,
    /// A segment that ends in a space.
    TrailingSpace,
}

impl Oddity {
    /// Every form that can be allowed.
    pub const ALL: &'static [Self] = &[
        Self::EncodedSlash,
        Self::Backslash,
        Self::EncodedBackslash,
        Self::Semicolon,
        Self::EncodedSemicolon,
        Self::EncodedQuestionMark,
        Self::EncodedHash,
        Self::EmptySegment,
        Self::TrailingDot,
        Self::TrailingSpace,
    ];

    /// Its word in `allow_in_path`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EncodedSlash => "%2F",
            Self::Backslash => "\\",
            Self::EncodedBackslash => "%5C",
            Self::Semicolon => ";",
            Self::EncodedSemicolon => "%3B",
            Self::EncodedQuestionMark => "%3F",
            Self::EncodedHash => "%23",
            Self::EmptySegment => "//",
            Self::TrailingDot => "trailing dot",
            Self::TrailingSpace => "trailing space",
        }
    }

    /// Reads a word of `allow_in_path`; escapes in either case.
    ///
    /// # Errors
    /// [`NotAllowable`] for everything else.
    pub fn parse(word: &str) -> Result<Self, NotAllowable> {
        let same = |oddity: &&Self| oddity.as_str().eq_ignore_ascii_case(word);
        Self::ALL.iter().find(same).copied().ok_or_else(|| NotAllowable(word.to_owned()))
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that `allow_in_path` cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be allowed; what can: `%2F` `%5C` `\\` `;` `%3B` `//` `%3F` `%23` `trailing dot` \
     `trailing space`. Dot segments, control characters, bad escapes, bytes that are not UTF-8 and escaped \
     escapes of these are refused always"
)]
pub struct NotAllowable(String);

/// A set of ambiguous forms.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct AllowedInPath(u16);

impl AllowedInPath {
    /// Whether the form is in the set.
    pub const fn allows(self, oddity: Oddity) -> bool {
        self.0 & (1 << oddity as u16) != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn add(&mut self, oddity: Oddity) {
        self.0 |= 1 << oddity as u16;
    }

    fn iter(self) -> impl Iterator<Item = Oddity> {
        Oddity::ALL.iter().copied().filter(move |oddity| self.allows(*oddity))
    }
}

impl FromIterator<Oddity> for AllowedInPath {
    fn from_iter<I: IntoIterator<Item = Oddity>>(oddities: I) -> Self {
        let mut set = Self::default();
        oddities.into_iter().for_each(|oddity| set.add(oddity));
        set
    }
}

impl fmt::Debug for AllowedInPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Why a path is refused on every route. The text is fixed: nothing of the request is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `OPTIONS *` is about the server, and no route is.
    #[error("the target `*` is not served")]
    Asterisk,
    /// Not even a `/`.
    #[error("the path does not begin with a slash")]
    NotOriginForm,
    /// `.` or `..`, plain, encoded or with parameters, or any other segment of only dots and spaces.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A control character (Unicode category Cc), plain or encoded.
    #[error("the path has a control character")]
    ControlCharacter,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` that begins no escape")]
    BadEscape,
    /// Decoded, it is no UTF-8; overlong forms are none.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// Decoded again it would have one of the ambiguous forms.
    #[error("the path has an escape that is escaped again")]
    DoubleEncoding,
    /// A plain `#`.
    #[error("the path has a fragment")]
    Fragment,
    /// An ambiguous form that the route does not allow.
    #[error("the path has an ambiguous form that is not allowed here")]
    NotAllowed(Oddity),
}

/// A path in canonical form: escapes of unreserved characters decoded (RFC 3986 section 6.2.2.2), other
/// escapes in upper case, everything that a path cannot carry plainly escaped. It begins with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath {
    text: String,
    oddities: AllowedInPath,
}

impl CanonicalPath {
    /// Reads the path of a request target in origin form (RFC 9112 section 3.2.1), up to its query.
    ///
    /// # Errors
    /// [`PathError`] for what no route may allow.
    pub fn parse(target: &[u8]) -> Result<Self, PathError> {
        let path = target.split(|b| *b == b'?').next().unwrap_or_default();
        match path {
            [b'/', ..] => {}
            b"*" => return Err(PathError::Asterisk),
            _ => return Err(PathError::NotOriginForm),
        }
        if let Some(text) = plain(path) {
            return Ok(Self { text: text.to_owned(), oddities: AllowedInPath::default() });
        }
        Self::parse_any(path)
    }

    /// Reads any path that begins with a slash.
    fn parse_any(path: &[u8]) -> Result<Self, PathError> {
        let mut oddities = AllowedInPath::default();
        let text = canonical(path, &mut oddities)?;
        if text.contains('%') {
            let once = String::from_utf8(decode(text.as_bytes(), |_| ())).map_err(|_| PathError::NotUtf8)?;
            if once.contains(char::is_control) {
                return Err(PathError::ControlCharacter);
            }
            inspect_segments(&once, &mut oddities)?;
            refuse_double_encoding(once)?;
        } else {
            inspect_segments(&text, &mut oddities)?;
        }
        Ok(Self { text, oddities })
    }

    /// The canonical form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the path has no ambiguous form at all.
    pub const fn is_plain(&self) -> bool {
        self.oddities.is_empty()
    }

    /// Whether the route allows each ambiguous form the path has.
    ///
    /// # Errors
    /// [`PathError::NotAllowed`] with the first form it does not allow.
    pub fn check(&self, allowed: AllowedInPath) -> Result<(), PathError> {
        match self.oddities.iter().find(|oddity| !allowed.allows(*oddity)) {
            Some(oddity) => Err(PathError::NotAllowed(oddity)),
            None => Ok(()),
        }
    }
}

/// A path with the query of the original target, which is kept byte for byte.
pub fn with_query_of(path: &str, target: &[u8]) -> Vec<u8> {
    let query = target.iter().position(|b| *b == b'?').and_then(|at| target.get(at..)).unwrap_or_default();
    [path.as_bytes(), query].concat()
}

/// The path as a text if it is in canonical form already and has nothing ambiguous: nearly every path, and found
/// out in one pass. The slow way would say the same.
fn plain(path: &[u8]) -> Option<&str> {
    let mut before = 0;
    for byte in path {
        let odd_end = *byte == b'/' && matches!(before, b'/' | b'.');
        if odd_end || !stands_for_itself(*byte) {
            return None;
        }
        before = *byte;
    }
    if before == b'.' { None } else { std::str::from_utf8(path).ok() }
}

/// The canonical text of a path, and the ambiguous forms that single characters of it are.
fn canonical(path: &[u8], oddities: &mut AllowedInPath) -> Result<String, PathError> {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match *byte {
            b'%' => {
                let byte = escaped(tail).ok_or(PathError::BadEscape)?;
                rest = tail.get(2..).unwrap_or_default();
                if is_unreserved(byte) {
                    text.push(char::from(byte));
                } else {
                    push_escape(&mut text, byte);
                    if let Some(oddity) = encoded_oddity(byte) {
                        oddities.add(oddity);
                    }
                }
            }
            b'#' => return Err(PathError::Fragment),
            byte if byte.is_ascii_control() => return Err(PathError::ControlCharacter),
            b'\\' => {
                oddities.add(Oddity::Backslash);
                text.push('\\');
            }
            b';' => {
                oddities.add(Oddity::Semicolon);
                text.push(';');
            }
            byte if stands_for_itself(byte) => text.push(char::from(byte)),
            byte => push_escape(&mut text, byte),
        }
    }
    Ok(text)
}

const fn encoded_oddity(byte: u8) -> Option<Oddity> {
    match byte {
        b'/' => Some(Oddity::EncodedSlash),
        b'\\' => Some(Oddity::EncodedBackslash),
        b';' => Some(Oddity::EncodedSemicolon),
        b'?' => Some(Oddity::EncodedQuestionMark),
        b'#' => Some(Oddity::EncodedHash),
        _ => None,
    }
}

/// Finds what is odd about the segments of a decoded path, for the reader who parts them most eagerly: at
/// every slash and backslash, with `;`, `?` and `#` ending the name of a segment.
fn inspect_segments(decoded: &str, oddities: &mut AllowedInPath) -> Result<(), PathError> {
    let mut segments = decoded.split(['/', '\\']).skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split([';', '?', '#']).next().unwrap_or_default();
        if name.is_empty() && segments.peek().is_some() {
            oddities.add(Oddity::EmptySegment);
        }
        for text in [name, segment] {
            let kept = text.trim_end_matches(['.', ' ']);
            let trimmed = text.strip_prefix(kept).unwrap_or_default();
            if kept.is_empty() && !trimmed.is_empty() {
                return Err(PathError::DotSegment);
            }
            if trimmed.contains('.') {
                oddities.add(Oddity::TrailingDot);
            }
            if trimmed.contains(' ') {
                oddities.add(Oddity::TrailingSpace);
            }
        }
    }
    Ok(())
}

/// Refuses a decoded path that a reader who decodes again would read differently in its structure. What
/// only yields other letters (`%2541`) or no escape at all (`%25`) is harmless.
fn refuse_double_encoding(mut text: String) -> Result<(), PathError> {
    for _ in 0..MOST_DECODINGS {
        if !text.contains('%') {
            return Ok(());
        }
        let mut structural = has_wide_escape(&text);
        let again = decode(text.as_bytes(), |byte| {
            structural |= matches!(byte, b'.' | b'/' | b'\\' | b';' | b'?' | b'#') || byte.is_ascii_control();
        });
        let again = String::from_utf8(again).map_err(|_| PathError::DoubleEncoding)?;
        let oddities_of = |text: &str| {
            let mut oddities = AllowedInPath::default();
            inspect_segments(text, &mut oddities).map(|()| oddities)
        };
        if structural || again.contains(char::is_control) || oddities_of(&again) != oddities_of(&text) {
            return Err(PathError::DoubleEncoding);
        }
        if again == text {
            return Ok(());
        }
        text = again;
    }
    Err(PathError::DoubleEncoding)
}

/// Whether the text has the escape `%uXXXX`, which some servers decode.
fn has_wide_escape(text: &str) -> bool {
    text.as_bytes().windows(6).any(|window| match window {
        [b'%', b'u' | b'U', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        _ => false,
    })
}

/// Decodes each escape once, tells which bytes came of it, and leaves a `%` that begins none.
fn decode(text: &[u8], mut found: impl FnMut(u8)) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let escaped = if *byte == b'%' { escaped(tail) } else { None };
        if let Some(byte) = escaped {
            rest = tail.get(2..).unwrap_or_default();
            found(byte);
        }
        decoded.push(escaped.unwrap_or(*byte));
    }
    decoded
}

/// The byte that the two hexadecimal digits at the beginning stand for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether the byte means nothing special to any reader of a path, but for slashes and dots.
const fn stands_for_itself(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

fn push_escape(text: &mut String, byte: u8) {
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from_digit(digit.into(), 16).unwrap_or_default().to_ascii_uppercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(target: &str) -> Result<CanonicalPath, PathError> {
        CanonicalPath::parse(target.as_bytes())
    }

    #[track_caller]
    fn refused(error: PathError, targets: &[&str]) {
        for target in targets {
            assert_eq!(parse(target).map(|path| path.text), Err(error), "{target:?}");
        }
    }

    #[track_caller]
    fn odd(expected: &[Oddity], targets: &[&str]) {
        for target in targets {
            let oddities = parse(target).map(|path| path.oddities);
            assert_eq!(oddities, Ok(expected.iter().copied().collect()), "{target:?}");
        }
    }

    #[test]
    fn plain_paths_have_one_form() {
        for (target, canonical) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/a?x=//../%2F;#", "/a"),
            ("/?", "/"),
            ("/%64eny", "/deny"),
            ("/d%65ny/%7Eu/%2d", "/deny/~u/-"),
            ("/a%40b/a@b", "/a%40b/a@b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a b\"<>[]^`{|}", "/a%20b%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
            ("/!$&'()*+,=:@-._~", "/!$&'()*+,=:@-._~"),
            ("/100%25", "/100%25"),
            ("/100%25zz", "/100%25zz"),
            ("/a%2541", "/a%2541"),
            ("/a%2520b", "/a%2520b"),
            ("/%25c3%25a9", "/%25c3%25a9"),
            ("/.well-known/a.b..c", "/.well-known/a.b..c"),
            ("/a%20b", "/a%20b"),
        ] {
            let path = parse(target).unwrap_or_else(|error| panic!("{target}: {error}"));
            assert_eq!(path.as_str(), canonical, "{target}");
            assert!(path.is_plain(), "{target}");
            assert_eq!(path.check(AllowedInPath::default()), Ok(()));
        }
    }

    #[test]
    fn no_route_may_allow_dot_segments() {
        refused(
            PathError::DotSegment,
            &[
                "/.",
                "/..",
                "/a/../b",
                "/a/./b",
                "/a/..",
                "/a/%2e%2e/b",
                "/a/.%2e",
                "/a/%2E.",
                "/%2e",
                "/...",
                "/..../a",
                "/a/..;/b",
                "/a/..;x=1/b",
                "/;x=/../",
                "/a/.;",
                "/..%3B/a",
                "/a/..%20/b",
                "/%20/a",
                "/. ./a",
                "/a%2F..%2Fb",
                "/a%2f%2e%2e%2fb",
                "/a\\..\\b",
                "/a%5C..%5Cb",
                "/a/..%3Fx",
                "/a/..%23",
                "/..%2f",
                "/a/..\\",
                "/%2e%2e%5c",
            ],
        );
    }

    #[test]
    fn no_route_may_allow_control_characters() {
        refused(
            PathError::ControlCharacter,
            &[
                "/%00",
                "/a%00.html",
                "/%0a",
                "/a%0D%0Ab",
                "/%09",
                "/a\tb",
                "/\0",
                "/%7f",
                "/%1F",
                "/%c2%85",
                "/\u{7f}",
            ],
        );
    }

    #[test]
    fn no_route_may_allow_bad_escapes_or_bytes_that_are_not_utf8() {
        refused(
            PathError::BadEscape,
            &[
                "/%",
                "/%4",
                "/a%zz",
                "/%u002e%u002e/",
                "/%U002e",
                "/%%32%65",
                "/%2%65",
                "/% 2",
                "/%+f",
                "/%-1",
            ],
        );
        refused(
            PathError::NotUtf8,
            &[
                "/%ff",
                "/%c0%ae%c0%ae/",
                "/%c0%af",
                "/%e0%80%af",
                "/%c1%9c",
                "/%ed%a0%80",
                "/%c3",
                "/%80",
                "/%f8%80%80%80%af",
            ],
        );
        assert_eq!(CanonicalPath::parse(b"/a\xff"), Err(PathError::NotUtf8));
        assert_eq!(CanonicalPath::parse(b"/a\xc0\xaf"), Err(PathError::NotUtf8));
        refused(PathError::Fragment, &["/a#", "/#/../b", "/a#?b"]);
    }

    #[test]
    fn no_route_may_allow_an_escaped_escape_of_something_ambiguous() {
        refused(
            PathError::DoubleEncoding,
            &[
                "/%252e%252e/a",
                "/%252e",
                "/.%252e/a",
                "/a%252eb",
                "/a%252fb",
                "/a%255Cb",
                "/a%253Bb",
                "/a%253fb",
                "/a%2523",
                "/%2500",
                "/a%250d%250a",
                "/%25252F",
                "/%25%32%65",
                "/%25%252e",
                "/%2525252e",
                "/%25u002e%25u002e",
                "/%25c0%25ae",
                "/%25ff",
                "/a%2520",
                "/%2520/a",
                "/%25c2%2585",
                "/%2525252525252541",
            ],
        );
    }

    #[test]
    fn other_targets_are_no_paths() {
        refused(PathError::Asterisk, &["*", "*?a"]);
        refused(PathError::NotOriginForm, &["", "a/b", "http://h/a", "?a", "\\a", "%2Fa", "h:443"]);
    }

    #[test]
    fn ambiguous_forms_are_found_in_every_spelling() {
        odd(&[Oddity::EncodedSlash], &["/a%2Fb", "/a%2fb", "/a%2f"]);
        odd(&[Oddity::Backslash], &["/a\\b"]);
        odd(&[Oddity::EncodedBackslash], &["/a%5Cb", "/a%5cb"]);
        odd(&[Oddity::Semicolon], &["/a;b", "/a;x=1/b", "/;x", "/a/;"]);
        odd(&[Oddity::EncodedSemicolon], &["/a%3Bb", "/a%3b"]);
        odd(&[Oddity::EncodedQuestionMark], &["/a%3Fb", "/a%3f"]);
        odd(&[Oddity::EncodedHash], &["/a%23b"]);
        odd(&[Oddity::EmptySegment], &["//", "//a", "/a//b", "/a//", "///"]);
        odd(&[Oddity::EmptySegment, Oddity::EncodedSlash], &["/%2Fa", "/a%2F%2Fb", "/a/%2F"]);
        odd(&[Oddity::EmptySegment, Oddity::Backslash], &["/\\a", "/a\\\\b"]);
        odd(&[Oddity::EmptySegment, Oddity::Semicolon], &["/;x/a", "/a/;/b"]);
        odd(&[Oddity::TrailingDot], &["/a.", "/a./b", "/a%2e", "/a../b"]);
        odd(&[Oddity::TrailingSpace], &["/a%20", "/a%20/b", "/a /b"]);
        odd(&[Oddity::TrailingDot, Oddity::TrailingSpace], &["/a.%20", "/a%20./b"]);
        odd(&[Oddity::TrailingDot, Oddity::Semicolon], &["/a.;x", "/a;x."]);
    }

    #[test]
    fn a_form_passes_only_where_it_is_allowed() {
        for (target, needed) in [
            ("/a%2Fb", vec!["%2F"]),
            ("/a%2Fb;c", vec!["%2f", ";"]),
            ("/%2Fb", vec!["%2F", "//"]),
            ("/a%5cb\\", vec!["%5C", "\\"]),
            ("/a%3b%3f%23", vec!["%3B", "%3F", "%23"]),
            ("/a./b%20", vec!["trailing dot", "trailing space"]),
        ] {
            let path = parse(target).unwrap();
            let needed: Vec<_> = needed.into_iter().map(|word| Oddity::parse(word).unwrap()).collect();
            let allowed: AllowedInPath = needed.iter().copied().collect();
            assert_eq!(path.check(allowed), Ok(()), "{target}");
            assert!(!path.is_plain());
            for missing in needed.iter().copied() {
                let fewer = needed.iter().copied().filter(|oddity| *oddity != missing).collect();
                assert_eq!(path.check(fewer), Err(PathError::NotAllowed(missing)), "{target}");
            }
        }
    }

    #[test]
    fn what_cannot_be_allowed_is_an_error_that_says_what_can() {
        for word in ["", ".", "..", "%2e", "%2E", "%00", "%25", "%252F", "#", "?", "/", "\t", "%zz", "%C0%AF"]
        {
            let error = Oddity::parse(word).unwrap_err();
            assert!(Oddity::ALL.iter().all(|oddity| error.to_string().contains(oddity.as_str())), "{error}");
        }
        assert!(Oddity::ALL.iter().all(|oddity| Oddity::parse(oddity.as_str()) == Ok(*oddity)));
    }

    #[test]
    fn the_query_is_kept_byte_for_byte() {
        assert_eq!(with_query_of("/a", b"/%61?x=%2f;//..?\xff"), b"/a?x=%2f;//..?\xff");
        assert_eq!(with_query_of("/a", b"/b?"), b"/a?");
        assert_eq!(with_query_of("/a", b"/b"), b"/a");
    }

    fn a_path() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "a", "b", ".", "..", "%2e", "%2F", "%5c", "\\", ";", "%3b", "%3f", "%23", "%", "25",
            "%25", "2e", "2f", "u002e", "%00", "%20", " ", "é", "%c3%a9", "%c0", "%ae", "@", "%40", "%41",
            "%7e", "00", "c2", "85",
        ]);
        prop::collection::vec(piece, 0..9).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// What is wrong with a path for a reader that parts it at slashes and at those other marks.
    fn dangers(path: &[u8], marks: &[u8]) -> Option<&'static str> {
        let segments: Vec<_> = path[1..].split(|b| *b == b'/' || marks.contains(b)).collect();
        if segments.iter().any(|segment| matches!(*segment, b"." | b"..")) {
            return Some("dot segment");
        }
        if path.iter().any(u8::is_ascii_control) {
            return Some("control character");
        }
        (path.windows(2).any(|pair| pair == b"//")).then_some("empty segment")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8000))]

        #[test]
        fn the_canonical_form_is_its_own(path in a_path()) {
            if let Ok(once) = parse(&path) {
                prop_assert_eq!(parse(once.as_str()), Ok(once.clone()));
                prop_assert!(once.as_str().starts_with('/') && once.as_str().is_ascii());
            }
        }

        #[test]
        fn the_quick_way_says_what_the_slow_one_does(path in "(/|a|\\.|%|;|\\\\|é| |@|//|\\./){0,9}") {
            let path = format!("/{path}");
            prop_assert_eq!(parse(&path), CanonicalPath::parse_any(path.as_bytes()));
        }

        #[test]
        fn canonicalising_changes_no_meaning(path in a_path()) {
            if let Ok(canonical) = parse(&path) {
                prop_assert_eq!(decode(canonical.as_str().as_bytes(), |_| ()), decode(path.as_bytes(), |_| ()));
            }
        }

        #[test]
        fn a_plain_path_stays_harmless_however_often_it_is_decoded(path in a_path()) {
            if let Ok(canonical) = parse(&path) && canonical.is_plain() {
                let mut read = canonical.as_str().as_bytes().to_vec();
                for _ in 0..6 {
                    prop_assert_eq!(dangers(&read, b"\\;?#"), None, "{:?}", String::from_utf8_lossy(&read));
                    prop_assert!(std::str::from_utf8(&read).is_ok());
                    read = decode(&read, |_| ());
                }
            }
        }

        #[test]
        fn no_accepted_path_ever_has_a_dot_segment_or_a_control_character(path in a_path()) {
            if let Ok(canonical) = parse(&path) {
                let mut read = canonical.as_str().as_bytes().to_vec();
                for _ in 0..6 {
                    let danger = dangers(&read, b"\\").filter(|danger| {
                        *danger != "empty segment" || !canonical.oddities.allows(Oddity::EmptySegment)
                    });
                    prop_assert_eq!(danger, None, "{:?}", String::from_utf8_lossy(&read));
                    read = decode(&read, |_| ());
                }
            }
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(target: Vec<u8>) {
            if let Ok(path) = CanonicalPath::parse(&[b"/", target.as_slice()].concat()) {
                prop_assert!(path.as_str().is_ascii());
            }
        }
    }
}
