//! The part of BER that LDAP uses (RFC 4511 section 5.1): elements written, and read one after another. Nothing here
//! calls itself, however deep the elements of an answer are nested. Pure.

/// Octets that a length beyond 127 may have: a message is never as long as they could say.
const LENGTH_OCTETS: u8 = 4;

/// Why bytes are no answer of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The directory sends more than an answer may have.
    #[error("it is longer than 256 KiB")]
    TooLong,
    /// Of an indefinite or senseless form.
    #[error("it has a length of a form that LDAP does not allow")]
    Length,
    /// More contents than there is room for.
    #[error("a part of it is longer than what holds it")]
    Cut,
    /// Nothing where something has to be.
    #[error("a part of it is missing")]
    Missing,
    /// Something else than has to be there.
    #[error("it has an element of tag {found:#04x} where {expected:#04x} has to be")]
    Tag {
        /// What has to be there.
        expected: u8,
        /// What is there.
        found: u8,
    },
    /// A number that is none, or out of range.
    #[error("a number in it is out of range")]
    Number,
    /// A name that is no text.
    #[error("a name in it is no text")]
    Text,
    /// An answer to something else.
    #[error("it is no answer to what was asked")]
    Unasked,
    /// Several entries under one name.
    #[error("it has more than one entry")]
    Entries,
}

/// Elements that stand one after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elements<'a>(pub(super) &'a [u8]);

impl<'a> Elements<'a> {
    /// The tag and the contents of the next one, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Unreadable> {
        let Some((&tag, rest)) = self.0.split_first() else { return Ok(None) };
        let (&first, rest) = rest.split_first().ok_or(Unreadable::Cut)?;
        let (octets, rest) = rest.split_at_checked(octets_after(first)?).ok_or(Unreadable::Cut)?;
        let (contents, rest) = rest.split_at_checked(length(first, octets)?).ok_or(Unreadable::Cut)?;
        self.0 = rest;
        Ok(Some((tag, contents)))
    }

    /// The contents of the next one, which has to be of this tag.
    pub(super) fn take(&mut self, expected: u8) -> Result<&'a [u8], Unreadable> {
        match self.next()?.ok_or(Unreadable::Missing)? {
            (found, contents) if found == expected => Ok(contents),
            (found, _) => Err(Unreadable::Tag { expected, found }),
        }
    }

    /// The next one, a number that is not negative.
    pub(super) fn number(&mut self, tag: u8) -> Result<u32, Unreadable> {
        let octets = self.take(tag)?;
        let negative = octets.first().ok_or(Unreadable::Number)? & 0x80 != 0;
        if negative || octets.len() > 4 {
            return Err(Unreadable::Number);
        }
        Ok(octets.iter().fold(0, |number, &octet| number << 8 | u32::from(octet)))
    }
}

/// How many octets of a length follow its first one.
pub(super) fn octets_after(first: u8) -> Result<usize, Unreadable> {
    match first.checked_sub(0x80) {
        None => Ok(0),
        // None would be the indefinite form.
        Some(octets @ 1..=LENGTH_OCTETS) => Ok(octets.into()),
        Some(_) => Err(Unreadable::Length),
    }
}

/// The length that its first octet and those after it say.
pub(super) fn length(first: u8, octets: &[u8]) -> Result<usize, Unreadable> {
    if first < 0x80 {
        return Ok(first.into());
    }
    let length = octets.iter().fold(0, |length: u64, &octet| length << 8 | u64::from(octet));
    usize::try_from(length).map_err(|_| Unreadable::Length)
}

/// An element of these contents, one after another.
pub(super) fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|part| part.len()).sum();
    let octets = length.to_be_bytes();
    let octets = octets.get(length.leading_zeros() as usize / 8..).unwrap_or_default();
    // Room for all of it at once: what grows leaves copies behind, and a password is among the contents.
    let mut out = Vec::with_capacity(length + octets.len() + 2);
    out.push(tag);
    match (u8::try_from(length), u8::try_from(octets.len())) {
        (Ok(length @ ..0x80), _) => out.push(length),
        (_, Ok(count)) => {
            out.push(0x80 | count);
            out.extend_from_slice(octets);
        }
        // A length has eight octets at most.
        (_, Err(_)) => {}
    }
    for part in contents {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_read_in_every_form_that_is_allowed() {
        for bytes in
            [&b"\x04\x02ab"[..], b"\x04\x81\x02ab", b"\x04\x82\x00\x02ab", b"\x04\x84\x00\x00\x00\x02ab"]
        {
            let mut elements = Elements(bytes);
            assert_eq!(elements.next(), Ok(Some((4, &b"ab"[..]))), "{bytes:?}");
            assert_eq!(elements.next(), Ok(None));
        }
        for (bytes, why) in [
            (&b"\x04"[..], Unreadable::Cut),
            (b"\x04\x03ab", Unreadable::Cut),
            (b"\x04\x82\x00", Unreadable::Cut),
            (b"\x04\x84\xff\xff\xff\xffab", Unreadable::Cut),
            (b"\x30\x80\x00\x00", Unreadable::Length),
            (b"\x04\x85\x00\x00\x00\x00\x02ab", Unreadable::Length),
            (b"\x04\xff\x00", Unreadable::Length),
        ] {
            assert_eq!(Elements(bytes).next(), Err(why), "{bytes:?}");
        }
    }

    #[test]
    fn numbers_are_none_or_in_range() {
        let number = |bytes: &[u8]| Elements(bytes).number(2);
        assert_eq!(number(b"\x02\x01\x00"), Ok(0));
        assert_eq!(number(b"\x02\x02\x00\x80"), Ok(128));
        assert_eq!(number(b"\x02\x04\x7f\xff\xff\xff"), Ok(0x7fff_ffff));
        for bytes in [&b"\x02\x00"[..], b"\x02\x01\xff", b"\x02\x05\x00\x00\x00\x00\x01"] {
            assert_eq!(number(bytes), Err(Unreadable::Number), "{bytes:?}");
        }
        assert_eq!(number(b"\x0a\x01\x00"), Err(Unreadable::Tag { expected: 2, found: 10 }));
        assert_eq!(number(b""), Err(Unreadable::Missing));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(tag: u8, parts in proptest::collection::vec(any::<Vec<u8>>(), 0..6), long in 0..70_000_usize) {
            let filler = vec![7; long];
            let mut contents: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            contents.push(&filler);
            let bytes = element(tag, &contents);
            let (mut elements, contents) = (Elements(&bytes), contents.concat());
            prop_assert_eq!(elements.next(), Ok(Some((tag, contents.as_slice()))));
            prop_assert_eq!(elements.next(), Ok(None));
        }

        #[test]
        fn whatever_is_sent_is_elements_within_it_or_refused(bytes: Vec<u8>) {
            let mut elements = Elements(&bytes);
            let mut read = 0;
            while let Ok(Some((_, contents))) = elements.next() {
                read += contents.len() + 2;
                prop_assert!(read <= bytes.len());
            }
        }
    }
}
