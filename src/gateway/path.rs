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
            byte if is_unreserved(byte) || b"/!$&'()*+,=:@".contains(&byte) => text.push(char::from(byte)),
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

fn push_escape(text: &mut String, byte: u8) {
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from_digit(digit.into(), 16).unwrap_or_default().to_ascii_uppercase());
    }
}
