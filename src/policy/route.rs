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
