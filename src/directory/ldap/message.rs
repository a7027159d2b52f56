//! What is said to a directory and what it answers, as bytes (RFC 4511). Pure.

use super::ber::{Elements, Unreadable, element};
use std::collections::HashMap;
use zeroize::Zeroizing;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

const BIND: u8 = 0x60;
const BOUND: u8 = 0x61;
const SEARCH: u8 = 0x63;
const ENTRY: u8 = 0x64;
const SEARCHED: u8 = 0x65;
const REFERENCE: u8 = 0x73;
const EXTENDED: u8 = 0x77;
const EXTENDED_DONE: u8 = 0x78;
const INTERMEDIATE: u8 = 0x79;

/// The name of `StartTLS` (section 4.14.1).
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// A request. On one connection each is made once, so its number is fixed.
pub struct Request {
    number: u8,
    /// The tag of the last answer to it.
    last: u8,
    /// The message that asks it.
    pub(super) message: Zeroizing<Vec<u8>>,
}

impl Request {
    /// Section 4.14: after the answer the connection is encrypted.
    pub fn start_tls() -> Self {
        Self::new(1, EXTENDED_DONE, &element(EXTENDED, &[&element(0x80, &[START_TLS])]))
    }

    /// Section 4.2: version 3, and a password.
    pub fn bind(name: &str, password: &str) -> Self {
        let name = element(OCTETS, &[name.as_bytes()]);
        let password = Zeroizing::new(element(0x80, &[password.as_bytes()]));
        let asked = Zeroizing::new(element(BIND, &[&[INTEGER, 1, 3], &name, &password]));
        Self::new(2, BOUND, &asked)
    }

    /// Section 4.5.1: these attributes of the entry of this name alone, whatever it is.
    pub fn read<'a>(name: &str, attributes: impl Iterator<Item = &'a str>) -> Self {
        let name = element(OCTETS, &[name.as_bytes()]);
        let attributes: Vec<u8> =
            attributes.flat_map(|attribute| element(OCTETS, &[attribute.as_bytes()])).collect();
        let attributes = element(SEQUENCE, &[&attributes]);
        let alone = [ENUMERATED, 1, 0];
        let aliases_stay = [ENUMERATED, 1, 0];
        let no_limit = [INTEGER, 1, 0];
        let with_values = [BOOLEAN, 1, 0];
        let whatever = element(0x87, &[b"objectClass"]);
        let parts: [&[u8]; 8] =
            [&name, &alone, &aliases_stay, &no_limit, &no_limit, &with_values, &whatever, &attributes];
        Self::new(3, SEARCHED, &element(SEARCH, &parts))
    }

    fn new(number: u8, last: u8, asked: &[u8]) -> Self {
        Self { number, last, message: Zeroizing::new(element(SEQUENCE, &[&[INTEGER, 1, number], asked])) }
    }
}

/// An entry's attributes by their names in lower case; no values for those that hold something else than text.
pub type Attributes = HashMap<String, Option<Vec<String>>>;

/// What one message of an answer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Of this entry.
    Entry(Attributes),
    /// That the answer ends, with this result code.
    Done(u32),
    /// Nothing that was asked for.
    Aside,
}

impl Request {
    /// Reads one message of the answer, given without what says how long it is.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn answer(&self, message: &[u8]) -> Result<Said, Unreadable> {
        let mut message = Elements(message);
        match message.number(INTEGER)? {
            // Unsolicited (section 4.4): that the directory is about to close the connection.
            0 => return Ok(Said::Aside),
            its if its == u32::from(self.number) => {}
            _ => return Err(Unreadable::Unasked),
        }
        match message.next()?.ok_or(Unreadable::Missing)? {
            (tag, contents) if tag == self.last => code(contents).map(Said::Done),
            (ENTRY, contents) if self.last == SEARCHED => attributes(contents).map(Said::Entry),
            // Where else something is to be found, which is not followed; news of the work.
            (REFERENCE | INTERMEDIATE, _) if self.last == SEARCHED => Ok(Said::Aside),
            _ => Err(Unreadable::Unasked),
        }
    }
}

/// Section 4.1.9: what else a result says is passed over unread.
fn code(contents: &[u8]) -> Result<u32, Unreadable> {
    let mut result = Elements(contents);
    let code = result.number(ENUMERATED)?;
    result.take(OCTETS)?;
    result.take(OCTETS)?;
    Ok(code)
}

/// Section 4.5.2.
fn attributes(contents: &[u8]) -> Result<Attributes, Unreadable> {
    let mut entry = Elements(contents);
    entry.take(OCTETS)?;
    let mut list = Elements(entry.take(SEQUENCE)?);
    let mut attributes = Attributes::new();
    while !list.0.is_empty() {
        let mut attribute = Elements(list.take(SEQUENCE)?);
        let name = std::str::from_utf8(attribute.take(OCTETS)?).map_err(|_| Unreadable::Text)?;
        let mut set = Elements(attribute.take(SET)?);
        let mut values = Some(Vec::new());
        while !set.0.is_empty() {
            match (&mut values, std::str::from_utf8(set.take(OCTETS)?)) {
                (Some(texts), Ok(text)) => texts.push(text.to_owned()),
                _ => values = None,
            }
        }
        attributes.insert(name.to_ascii_lowercase(), values);
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message of this number that holds this.
    fn message(number: u8, parts: &[&[u8]]) -> Vec<u8> {
        [&[INTEGER, 1, number], parts.concat().as_slice()].concat()
    }

    fn result(tag: u8, code: u8) -> Vec<u8> {
        element(tag, &[&[ENUMERATED, 1, code], &[OCTETS, 0], &element(OCTETS, &[b"why"])])
    }

    fn entry(attributes: &[(&[u8], &[&[u8]])]) -> Vec<u8> {
        let attributes: Vec<u8> = attributes
            .iter()
            .flat_map(|(name, values)| {
                let values: Vec<u8> = values.iter().flat_map(|value| element(OCTETS, &[value])).collect();
                element(SEQUENCE, &[&element(OCTETS, &[name]), &element(SET, &[&values])])
            })
            .collect();
        element(ENTRY, &[&element(OCTETS, &[b"uid=alice"]), &element(SEQUENCE, &[&attributes])])
    }

    fn reading() -> Request {
        Request::read("uid=alice", ["uid", "mail"].into_iter())
    }

    /// Elements in each other, from the outermost in, each with its length as four octets.
    fn nested(levels: usize) -> Vec<u8> {
        let length = |level: usize| u32::try_from((levels - 1 - level) * 6).unwrap().to_be_bytes();
        (0..levels).flat_map(|level| [&[SEQUENCE, 0x84], length(level).as_slice()].concat()).collect()
    }

    /// But for their numbers these are the bytes that OpenLDAP's `ldapsearch` sends.
    #[test]
    fn requests_are_what_other_clients_send() {
        let bind = b"0\x1c\x02\x01\x02`\x17\x02\x01\x03\x04\tuid=alice\x80\x07pa ssrd";
        assert_eq!(*Request::bind("uid=alice", "pa ssrd").message, bind);
        let start_tls = b"0\x1d\x02\x01\x01w\x18\x80\x161.3.6.1.4.1.1466.20037";
        assert_eq!(*Request::start_tls().message, start_tls);
        let search = b"09\x02\x01\x03c4\x04\tuid=alice\n\x01\x00\n\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\x87\x0bobjectClass0\x0b\x04\x03uid\x04\x04mail";
        assert_eq!(*reading().message, search);
        // Longer than one octet can say.
        let long = Request::bind("uid=alice", &"x".repeat(1024));
        assert!(long.message.starts_with(
            b"0\x82\x04\x19\x02\x01\x02`\x82\x04\x12\x02\x01\x03\x04\tuid=alice\x80\x82\x04\x00xxx"
        ));
    }

    #[test]
    fn an_answer_is_an_entry_and_a_result() {
        let alice = entry(&[
            (b"uid", &[b"alice"]),
            (b"Mail", &[b"a@b", b"b@c"]),
            (b"photo", &[b"x", b"\xff", b"y"]),
            (b"empty", &[]),
        ]);
        let controls = [0xa0, 2, 0x30, 0];
        let Ok(Said::Entry(found)) = reading().answer(&message(3, &[&alice, &controls])) else { panic!() };
        let texts = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!((&found["uid"], &found["mail"]), (&texts(&["alice"]), &texts(&["a@b", "b@c"])));
        assert_eq!((&found["photo"], &found["empty"]), (&None, &texts(&[])));
        for (request, tag) in
            [(Request::start_tls(), EXTENDED_DONE), (Request::bind("", "x"), BOUND), (reading(), SEARCHED)]
        {
            let done = message(request.number, &[&result(tag, 49), &controls]);
            assert_eq!(request.answer(&done), Ok(Said::Done(49)));
            let unsolicited = message(0, &[&result(EXTENDED_DONE, 52)]);
            assert_eq!(request.answer(&unsolicited), Ok(Said::Aside));
        }
        for aside in [&[INTERMEDIATE, 0][..], &[REFERENCE, 2, OCTETS, 0]] {
            assert_eq!(reading().answer(&message(3, &[aside])), Ok(Said::Aside));
        }
    }

    #[test]
    fn what_is_no_answer_to_the_request_is_refused() {
        for (bytes, why) in [
            (message(2, &[&result(SEARCHED, 0)]), Unreadable::Unasked),
            (message(3, &[&result(BOUND, 0)]), Unreadable::Unasked),
            (message(3, &[]), Unreadable::Missing),
            (message(3, &[&[SEARCHED, 0]]), Unreadable::Missing),
            (message(3, &[&[SEARCHED, 3, ENUMERATED, 1, 0]]), Unreadable::Missing),
            (message(3, &[&[SEARCHED, 9, ENUMERATED, 1, 0]]), Unreadable::Cut),
            (message(3, &[&[SEARCHED, 3, ENUMERATED, 9, 0]]), Unreadable::Cut),
            (message(3, &[&[SEARCHED, 3, ENUMERATED, 1, 0x80]]), Unreadable::Number),
            (message(3, &[&[ENTRY, 2, OCTETS, 0]]), Unreadable::Missing),
            (message(3, &[&entry(&[(b"\xff", &[])])]), Unreadable::Text),
            (vec![], Unreadable::Missing),
            (vec![INTEGER, 0], Unreadable::Number),
            (vec![OCTETS, 1, 3], Unreadable::Tag { expected: INTEGER, found: OCTETS }),
        ] {
            assert_eq!(reading().answer(&bytes), Err(why), "{bytes:?}");
        }
        // Nobody asked for an entry.
        let found = message(2, &[&entry(&[(b"uid", &[b"alice"])])]);
        assert_eq!(Request::bind("", "x").answer(&found), Err(Unreadable::Unasked));
    }

    #[test]
    fn nesting_needs_no_stack() {
        let deep = nested(100_000);
        let refused = |expected| Err(Unreadable::Tag { expected, found: SEQUENCE });
        assert_eq!(reading().answer(&deep), refused(INTEGER));
        for (tag, expected) in [(ENTRY, OCTETS), (SEARCHED, ENUMERATED)] {
            assert_eq!(reading().answer(&message(3, &[&element(tag, &[&deep])])), refused(expected));
        }
        // What is not read is not gone into.
        let referral =
            element(SEARCHED, &[&[ENUMERATED, 1, 10, OCTETS, 0, OCTETS, 0], &element(0xa3, &[&deep])]);
        let controls = element(0xa0, &[&deep]);
        assert_eq!(reading().answer(&message(3, &[&referral, &controls])), Ok(Said::Done(10)));
    }

    proptest! {
        #[test]
        fn no_message_panics(
            bytes: Vec<u8>,
            tag in proptest::sample::select(vec![BOUND, ENTRY, SEARCHED, EXTENDED_DONE]),
        ) {
            for request in [Request::start_tls(), Request::bind("x", "y"), reading()] {
                let _ = request.answer(&bytes);
                let _ = request.answer(&message(request.number, &[&element(tag, &[&bytes])]));
            }
        }

        #[test]
        fn no_changed_entry_panics(place: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = message(3, &[&entry(&[(b"uid", &[b"alice"]), (b"mail", &[b"a@b", b""])])]);
            let place = place.index(bytes.len());
            bytes[place] = byte;
            let _ = reading().answer(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = reading().answer(&bytes);
        }

        #[test]
        fn an_entry_is_read_as_it_was_written(values in proptest::collection::vec(".{0,300}", 0..5)) {
            let bytes: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
            let found = reading().answer(&message(3, &[&entry(&[(b"mail", &bytes)])]));
            let attributes = Attributes::from([("mail".to_owned(), Some(values))]);
            prop_assert_eq!(found, Ok(Said::Entry(attributes)));
        }
    }
}
