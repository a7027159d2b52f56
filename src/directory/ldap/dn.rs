//! Names of entries: a template, and the login name written into it so that it stays one value. Pure.

use std::fmt::Write as _;

/// Where the login name stands in a template.
const PLACE: &str = "{username}";

/// The name of a user's entry, as `sessions.users.ldap.user_dn` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// Reads a template: a name with `{username}` in the place of a value.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.replace(PLACE, "x");
        let names = rest.split(',').all(|part| {
            part.split_once('=').is_some_and(|(name, value)| is_attribute(name.trim()) && !value.is_empty())
        });
        let good = names && rest != text && !rest.contains(['{', '}']) && !rest.chars().any(char::is_control);
        good.then(|| Self(text.to_owned()))
    }

    /// The attribute whose value is the login name, if the entry is called by it: `uid` of `uid={username},ou=people`.
    pub fn naming_attribute(&self) -> Option<&str> {
        let (name, rest) = self.0.split_once('=')?;
        let alone = rest.strip_prefix(PLACE)?;
        (alone.is_empty() || alone.starts_with(',')).then(|| name.trim())
    }

    /// The name of the entry of this user.
    pub fn fill(&self, username: &str) -> String {
        self.0.replace(PLACE, &escaped(username))
    }
}

/// A name of an attribute as RFC 4512 section 2.5 has it, without options, or its number.
pub fn is_attribute(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// A value as it stands in a name (RFC 4514 section 2.4). More is written as hex pairs than has to be: whatever is not
/// plainly part of a word.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@') || !c.is_ascii() {
            out.push(c);
        } else {
            let byte = u32::from(c);
            let _ = write!(out, "\\{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Another reading of RFC 4514: the values of a name, each with what was escaped put back.
    fn values(name: &str) -> Vec<String> {
        let mut values = vec![Vec::new()];
        let mut bytes = name.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => {
                    let pair = [bytes.next().unwrap(), bytes.next().unwrap()];
                    let pair = std::str::from_utf8(&pair).unwrap();
                    values.last_mut().unwrap().push(u8::from_str_radix(pair, 16).unwrap());
                }
                b',' | b'+' | b';' => values.push(Vec::new()),
                b'"' | b'<' | b'>' | b'#' | b'\0' | b' ' => panic!("{name:?}"),
                byte => values.last_mut().unwrap().push(byte),
            }
        }
        values.into_iter().map(|value| String::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn what_means_something_in_a_name_is_written_as_hex() {
        let template = Template::parse("uid={username},ou=people,dc=example,dc=com").unwrap();
        for (username, dn) in [
            ("alice", "uid=alice,ou=people,dc=example,dc=com"),
            ("a,ou=admins", "uid=a\\2cou\\3dadmins,ou=people,dc=example,dc=com"),
            (" #+\"\\<>;=\u{0}", "uid=\\20\\23\\2b\\22\\5c\\3c\\3e\\3b\\3d\\00,ou=people,dc=example,dc=com"),
            ("J\u{f6}rg", "uid=J\u{f6}rg,ou=people,dc=example,dc=com"),
            ("{username}", "uid=\\7busername\\7d,ou=people,dc=example,dc=com"),
        ] {
            assert_eq!(template.fill(username), dn);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_stays_one_value(username in any::<String>()) {
            let template = Template::parse("uid={username},ou=people").unwrap();
            let filled = template.fill(&username);
            prop_assert_eq!(values(&filled), vec![format!("uid={username}"), "ou=people".to_owned()]);
        }

        #[test]
        fn no_template_panics(text in any::<String>()) {
            if let Some(template) = Template::parse(&text) {
                let _ = (template.fill(&text), template.naming_attribute());
            }
        }
    }

    #[test]
    fn a_template_is_a_name_with_a_place() {
        let attribute = |text: &str| Template::parse(text).unwrap().naming_attribute().map(str::to_owned);
        assert_eq!(attribute("uid={username},ou=people").as_deref(), Some("uid"));
        assert_eq!(attribute("cn={username}").as_deref(), Some("cn"));
        assert_eq!(attribute("cn=user-{username},ou=people"), None);
        assert_eq!(attribute("cn=x,ou={username}"), None);
        assert_eq!(attribute("cn={username}+sn=x,ou=people"), None);
        for text in [
            "",
            "uid=alice,ou=people",
            "{username}",
            "{username}@corp",
            "uid={username},",
            "uid={user},ou=x",
            "=,{username}=x",
        ] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }
}
