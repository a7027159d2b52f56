//! The route table: which route serves a request, decided by specificity and never by order.

use super::pattern::{HostPattern, PathPattern, Segment, decoded, host_name};
use http::Method;
use std::collections::HashMap;
use std::str::Split;

/// Which requests a route serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// The route's name, for errors.
    pub name: String,
    /// The hosts; empty is every host.
    pub hosts: Vec<HostPattern>,
    /// The paths.
    pub path: PathPattern,
    /// The methods; empty is every method. `HEAD` is not implied by `GET`.
    pub methods: Vec<Method>,
}

/// Two routes that match the same requests equally well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "routes `{}` and `{}` match the same requests equally well; give them different hosts, paths or methods",
    names.0, names.1
)]
pub struct Ambiguity {
    /// Positions of the routes in the list the table was built from, in that order.
    pub routes: (usize, usize),
    /// Their names.
    pub names: (String, String),
}

/// All routes, ready for look-up.
///
/// Among the routes whose host and path fit, one that names the host wins over one that serves every host,
/// and then the most specific path: segment by segment, literal before `{name}` before `/**`. That path
/// decides. Among its routes those that name the method win over those that take every method, and if none
/// takes the method there is no route: a request that a specific path does not serve never falls through to
/// a broader route, which may ask for less.
#[derive(Debug)]
pub struct RouteTable<T> {
    named_hosts: HashMap<Box<str>, Node>,
    every_host: Node,
    routes: Vec<T>,
}

/// Paths that begin alike.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    parameter: Option<Box<Node>>,
    /// The path that ends here.
    exact: Option<Methods>,
    /// The path that ends here, and all below it.
    below: Option<Methods>,
}

/// The routes of one path pattern.
#[derive(Debug, Default)]
struct Methods {
    named: Vec<(Method, usize)>,
    every: Option<usize>,
}

impl<T> RouteTable<T> {
    /// Builds the table.
    ///
    /// # Errors
    /// Every [`Ambiguity`], each pair of routes once.
    pub fn build(routes: impl IntoIterator<Item = (RouteMatch, T)>) -> Result<Self, Vec<Ambiguity>> {
        let mut table = Self { named_hosts: HashMap::new(), every_host: Node::default(), routes: Vec::new() };
        let mut names: Vec<String> = Vec::new();
        let mut ties: Vec<Ambiguity> = Vec::new();
        for (index, (matched, route)) in routes.into_iter().enumerate() {
            for other in table.insert(index, &matched) {
                if !ties.iter().any(|tie| tie.routes == (other, index)) {
                    let first = names.get(other).cloned().unwrap_or_default();
                    ties.push(Ambiguity { routes: (other, index), names: (first, matched.name.clone()) });
                }
            }
            table.routes.push(route);
            names.push(matched.name);
        }
        if ties.is_empty() { Ok(table) } else { Err(ties) }
    }

    /// Enters a route; returns the routes that it ties with.
    fn insert(&mut self, index: usize, matched: &RouteMatch) -> Vec<usize> {
        let mut ties = Vec::new();
        if matched.hosts.is_empty() {
            self.every_host.at(&matched.path).insert(index, &matched.methods, &mut ties);
        }
        for host in &matched.hosts {
            let node = self.named_hosts.entry(host.as_str().into()).or_default();
            node.at(&matched.path).insert(index, &matched.methods, &mut ties);
        }
        ties
    }

    /// The route that serves a request: its `Host` or authority, the path in canonical form, the method.
    /// Segments are compared decoded; an escaped slash does not part segments.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Option<&T> {
        // A path that does not decode is no canonical path, and is not to be matched by `/**` either.
        decoded(path)?;
        let segments = path.strip_prefix('/')?.split('/');
        let named = self.named_hosts.get(host_name(host).as_ref());
        let methods =
            named.and_then(|node| node.find(segments.clone())).or_else(|| self.every_host.find(segments))?;
        self.routes.get(methods.find(method)?)
    }

    /// Every route, in the order the table was built from.
    pub fn routes(&self) -> &[T] {
        &self.routes
    }
}

impl Node {
    fn at(&mut self, path: &PathPattern) -> &mut Methods {
        let mut node = self;
        for segment in &path.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
                Segment::Parameter(_) => node.parameter.get_or_insert_default(),
            };
        }
        if path.below { &mut node.below } else { &mut node.exact }.get_or_insert_default()
    }

    fn find(&self, mut segments: Split<'_, char>) -> Option<&Methods> {
        let Some(segment) = segments.next() else {
            return self.exact.as_ref().or(self.below.as_ref());
        };
        let literal = || self.literals.get(decoded(segment)?.as_ref())?.find(segments.clone());
        let parameter = || self.parameter.as_ref().filter(|_| !segment.is_empty())?.find(segments.clone());
        literal().or_else(parameter).or(self.below.as_ref())
    }
}

impl Methods {
    fn insert(&mut self, index: usize, methods: &[Method], ties: &mut Vec<usize>) {
        if methods.is_empty() {
            let holder = *self.every.get_or_insert(index);
            ties.extend((holder != index).then_some(holder));
        }
        for method in methods {
            match self.named.iter().find(|(named, _)| named == method) {
                Some((_, holder)) => ties.extend((*holder != index).then_some(*holder)),
                None => self.named.push((method.clone(), index)),
            }
        }
    }

    fn find(&self, method: &Method) -> Option<usize> {
        self.named.iter().find(|(named, _)| named == method).map(|(_, route)| *route).or(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matched(name: &str, hosts: &[&str], path: &str, methods: &[&str]) -> RouteMatch {
        RouteMatch {
            name: name.to_owned(),
            hosts: hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
            path: PathPattern::parse(path).unwrap(),
            methods: methods.iter().map(|method| method.parse().unwrap()).collect(),
        }
    }

    /// A table of routes that are named by their path.
    fn of_paths(paths: &[&str]) -> RouteTable<String> {
        let route = |path: &&str| (matched(path, &[], path, &[]), (*path).to_owned());
        RouteTable::build(paths.iter().map(route)).unwrap()
    }

    fn get<'t>(table: &'t RouteTable<String>, path: &str) -> Option<&'t str> {
        table.find("api.example.com", path, &Method::GET).map(String::as_str)
    }

    #[test]
    fn the_most_specific_path_wins_whatever_the_order() {
        let mut paths = ["/**", "/a/**", "/a/{id}", "/a/b", "/a/{id}/c", "/a/b/**", "/a", "/a/"];
        for _ in 0..paths.len() {
            paths.rotate_left(1);
            let table = of_paths(&paths);
            for (path, route) in [
                ("/", "/**"),
                ("/x/y", "/**"),
                ("/A", "/**"),
                ("/a", "/a"),
                ("/a/", "/a/"),
                ("/a/x", "/a/{id}"),
                ("/a/x/", "/a/**"),
                ("/a/x/c", "/a/{id}/c"),
                ("/a/x/c/d", "/a/**"),
                ("/a/b", "/a/b"),
                ("/a/b/", "/a/b/**"),
                ("/a/b/c", "/a/b/**"),
            ] {
                assert_eq!(get(&table, path), Some(route), "{path}");
            }
        }
    }

    #[test]
    fn a_dead_end_behind_a_literal_does_not_hide_other_routes() {
        let table = of_paths(&["/a/b/x", "/a/{id}/c", "/{all}/b/**"]);
        assert_eq!(get(&table, "/a/b/c"), Some("/a/{id}/c"));
        assert_eq!(get(&table, "/a/b/d"), Some("/{all}/b/**"));
        assert_eq!(get(&table, "/a/e/d"), None);
    }

    #[test]
    fn each_pattern_matches_what_it_says_and_nothing_else() {
        for (pattern, yes, no) in [
            ("/a/b", vec!["/a/b"], vec!["/a/b/", "/a", "/a/b/c", "/a/B", "/a/bc", "/"]),
            ("/a/{id}", vec!["/a/x", "/a/x%2Fy", "/a/%20"], vec!["/a", "/a/", "/a/x/", "/a/x/y"]),
            ("/a/**", vec!["/a", "/a/", "/a/b", "/a/b/c/", "/a//"], vec!["/", "/ab", "/A/b"]),
            ("/**", vec!["/", "/a", "/a/b/", "//"], vec!["", "a", "*"]),
            ("/", vec!["/"], vec!["/a", "//"]),
        ] {
            let table = of_paths(&[pattern]);
            for path in yes {
                assert!(get(&table, path).is_some(), "{pattern} should match {path}");
            }
            for path in no {
                assert!(get(&table, path).is_none(), "{pattern} should not match {path}");
            }
        }
    }

    #[test]
    fn segments_are_compared_decoded_and_an_escaped_slash_parts_none() {
        let table = of_paths(&["/a@b", "/é/x", "/a/b"]);
        assert_eq!(get(&table, "/a%40b"), Some("/a@b"));
        assert_eq!(get(&table, "/a@b"), Some("/a@b"));
        assert_eq!(get(&table, "/%C3%A9/x"), Some("/é/x"));
        assert_eq!(get(&table, "/a%2Fb"), None);
        assert_eq!(get(&of_paths(&["/**"]), "/%FF"), None);
    }

    #[test]
    fn a_named_host_wins_over_a_better_path_of_every_host() {
        let routes = [
            matched("named", &["API.example.com:443", "b.example"], "/**", &[]),
            matched("every", &[], "/a", &[]),
            matched("other", &["other.example"], "/a", &[]),
        ];
        let table = RouteTable::build(routes.map(|route| (route.clone(), route.name))).unwrap();
        let find = |host, path| table.find(host, path, &Method::GET).map(String::as_str);
        assert_eq!(find("api.example.com", "/a"), Some("named"));
        assert_eq!(find("api.Example.COM.:8080", "/a"), Some("named"));
        assert_eq!(find("b.example", "/a"), Some("named"));
        assert_eq!(find("other.example", "/a"), Some("other"));
        assert_eq!(find("c.example", "/a"), Some("every"));
        assert_eq!(find("", "/a"), Some("every"));
        assert_eq!(find("other.example", "/b"), None);
        assert_eq!(find("c.example", "/b"), None);
    }

    #[test]
    fn a_method_the_best_path_does_not_take_falls_through_to_no_broader_route() {
        let routes = [
            matched("public", &[], "/**", &[]),
            matched("admin", &[], "/admin/**", &["GET"]),
            matched("read", &[], "/o/{id}", &["GET", "HEAD"]),
            matched("write", &[], "/o/{id}", &[]),
            matched("hosted", &["h"], "/p", &["GET"]),
            matched("all", &[], "/p", &[]),
        ];
        let table = RouteTable::build(routes.map(|route| (route.clone(), route.name))).unwrap();
        let find =
            |host, path, method: &str| table.find(host, path, &method.parse().unwrap()).map(String::as_str);
        assert_eq!(find("x", "/admin/a", "GET"), Some("admin"));
        assert_eq!(find("x", "/admin/a", "POST"), None);
        assert_eq!(find("x", "/admin/a", "HEAD"), None);
        assert_eq!(find("x", "/admin/a", "get"), None);
        assert_eq!(find("x", "/o/1", "HEAD"), Some("read"));
        assert_eq!(find("x", "/o/1", "DELETE"), Some("write"));
        assert_eq!(find("h", "/p", "POST"), None);
        assert_eq!(find("x", "/p", "POST"), Some("all"));
    }

    #[test]
    fn a_tie_names_both_routes_once() {
        let ties = |routes: Vec<RouteMatch>| match RouteTable::build(routes.into_iter().map(|r| (r, ()))) {
            Ok(_) => Vec::new(),
            Err(ties) => ties.into_iter().map(|tie| tie.routes).collect(),
        };
        let route = |hosts, path, methods| matched("r", hosts, path, methods);
        assert_eq!(ties(vec![route(&[], "/a", &[]), route(&[], "/a", &[])]), [(0, 1)]);
        assert_eq!(ties(vec![route(&[], "/a/{x}", &[]), route(&[], "/a/{y}", &[])]), [(0, 1)]);
        let several = route(&["a", "b"], "/a", &["GET", "PUT"]);
        assert_eq!(ties(vec![several.clone(), route(&["B.:80"], "/a", &["PUT"]), several]), [(0, 1), (0, 2)]);
        assert!(ties(vec![route(&[], "/a", &["GET"]), route(&[], "/a", &["PUT"])]).is_empty());
        assert!(ties(vec![route(&[], "/a", &["GET"]), route(&[], "/a", &[])]).is_empty());
        assert!(ties(vec![route(&["a"], "/a", &[]), route(&[], "/a", &[])]).is_empty());
        assert!(
            ties(vec![route(&[], "/a", &[]), route(&[], "/a/", &[]), route(&[], "/a/**", &[])]).is_empty()
        );
        assert!(ties(vec![route(&["a", "A"], "/a", &["GET", "GET"])]).is_empty());

        let routes = ["one", "two"].map(|name| (matched(name, &[], "/a", &[]), ()));
        let text = RouteTable::build(routes).unwrap_err()[0].to_string();
        assert!(text.contains("`one` and `two`"), "{text}");
    }

    #[test]
    fn ten_thousand_routes_are_found_each() {
        let paths: Vec<_> = (0..10_000).map(|n| format!("/service{n}/{{id}}/**")).collect();
        let table = of_paths(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        for (n, path) in paths.iter().enumerate() {
            assert_eq!(get(&table, &format!("/service{n}/7/x")), Some(path.as_str()));
        }
        assert_eq!(get(&table, "/service10000/7/x"), None);
    }

    /// How a pattern matches a path: the rank of each segment, literal 0, parameter 1, `/**` 2; smaller is
    /// more specific.
    fn ranks(pattern: &PathPattern, path: &str) -> Option<Vec<u8>> {
        let mut segments = path[1..].split('/');
        let mut ranks = Vec::new();
        for wanted in &pattern.segments {
            let segment = segments.next()?;
            ranks.push(match wanted {
                Segment::Literal(literal) if **literal == *segment => 0,
                Segment::Parameter(_) if !segment.is_empty() => 1,
                _ => return None,
            });
        }
        if pattern.below {
            ranks.push(2);
        } else if segments.next().is_some() {
            return None;
        }
        Some(ranks)
    }

    /// The specificity order, written as what it says and not as a trie.
    fn naive(routes: &[RouteMatch], host: &str, path: &str, method: &Method) -> Option<usize> {
        let fits = |route: &RouteMatch| {
            let hosted = route.hosts.iter().any(|h| h.as_str() == host);
            let ranks = ranks(&route.path, path)?;
            (hosted || route.hosts.is_empty()).then_some((!hosted, ranks))
        };
        let best = routes.iter().filter_map(fits).min()?;
        let takes = |explicit: bool| {
            routes.iter().position(|route| {
                let named = if explicit { route.methods.contains(method) } else { route.methods.is_empty() };
                named && fits(route).as_ref() == Some(&best)
            })
        };
        takes(true).or_else(|| takes(false))
    }

    fn a_route() -> impl Strategy<Value = RouteMatch> {
        let segment = prop::sample::select(vec!["a", "b", "{x}"]);
        let host = prop::sample::select(vec![vec![], vec!["h"], vec!["h", "i"]]);
        let method = prop::sample::select(vec![vec![], vec!["GET"], vec!["GET", "PUT"], vec!["PUT"]]);
        let ends = prop::sample::select(vec!["", "/", "/**"]);
        (host, prop::collection::vec(segment, 0..4), ends, method).prop_map(
            |(hosts, segments, end, methods)| {
                let named = segments
                    .iter()
                    .enumerate()
                    .map(|(n, s)| format!("/{}", s.replace('x', &format!("x{n}"))));
                let path = named.collect::<String>() + end;
                matched(&path, &hosts, if path.is_empty() { "/" } else { &path }, &methods)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_table_finds_what_the_order_says(
            routes in prop::collection::vec(a_route(), 1..12),
            path in "(/[abc]?){1,5}",
            host in prop::sample::select(vec!["h", "i", "j"]),
            method in prop::sample::select(vec![Method::GET, Method::PUT, Method::POST]),
        ) {
            // Those that tie with an earlier one are left out, so that most samples make a table.
            let mut kept: Vec<RouteMatch> = Vec::new();
            for route in routes {
                kept.push(route);
                if RouteTable::build(kept.iter().cloned().map(|route| (route, ()))).is_err() {
                    kept.pop();
                }
            }
            let table = RouteTable::build(kept.iter().cloned().enumerate().map(|(n, route)| (route, n))).unwrap();
            let expected = naive(&kept, host, &path, &method);
            prop_assert_eq!(table.find(host, &path, &method).copied(), expected);
        }
    }
}
