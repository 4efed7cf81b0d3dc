//! What each route touches: the one table of access. A route that is not in it is refused.
//!
//! A Kubernetes token needs the verb on the resource (group `opentiger.dev`) in the namespace that is
//! served. There is no name in that question: routes name objects by uid, RBAC by name. A key needs the
//! scope, which follows from the row.

use axum::http::Method;

/// What a key may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Read,
    /// Make and change Tasks and the like.
    Write,
    /// Start, stop and configure the system.
    System,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::System];

    /// The word in the file of keys.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::System => "system",
        }
    }
}

/// What a route touches, in the words of Kubernetes authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: no data behind it.
    Open,
    /// The Pod of a Run, which the route itself recognises by its token.
    Run,
    /// Whoever can sign, which the route itself checks.
    Signed,
    /// `verb` on `resource` of the group.
    Resource { verb: &'static str, resource: &'static str },
    /// The Pod of a Run, or who may `verb` `resource`.
    RunOr { verb: &'static str, resource: &'static str },
}

impl Access {
    /// Which of the two a [`Access::RunOr`] is for a request that shows the token of a Run's Pod, or not.
    pub fn resolve(self, run_token: bool) -> Self {
        match self {
            Self::RunOr { verb: _, resource: _ } if run_token => Self::Run,
            Self::RunOr { verb, resource } => Self::Resource { verb, resource },
            Self::Open | Self::Run | Self::Signed | Self::Resource { .. } => self,
        }
    }
}

const fn on(verb: &'static str, resource: &'static str) -> Access {
    Access::Resource { verb, resource }
}

/// Method, route, what it touches. Parameters are `{}` whatever their name; HEAD is GET.
const ROUTES: &[(&str, &str, Access)] = &[
    ("GET", "/health", Access::Open),
    ("GET", "/health/ready", Access::Open),
    ("GET", "/openapi.json", Access::Open),
    ("POST", "/webhook/github", Access::Signed),
    ("POST", "/api/webhook/github", Access::Signed),
    ("GET", "/", on("get", "systems")),
    ("GET", "/plugins", on("get", "systems")),
    ("GET", "/tasks", on("list", "tasks")),
    ("POST", "/tasks", on("create", "tasks")),
    ("GET", "/tasks/{}", on("get", "tasks")),
    ("PATCH", "/tasks/{}", on("patch", "tasks")),
    ("DELETE", "/tasks/{}", on("delete", "tasks")),
    ("GET", "/tasks/{}/retry", on("get", "tasks")),
    ("POST", "/tasks/{}/retry", on("patch", "tasks")),
    ("GET", "/runs", on("list", "runs")),
    ("POST", "/runs", on("create", "runs")),
    ("GET", "/runs/stats", on("list", "runs")),
    ("GET", "/runs/{}", on("get", "runs")),
    ("PATCH", "/runs/{}", on("patch", "runs")),
    ("GET", "/runs/{}/logs", on("get", "runs")),
    ("GET", "/runs/{}/logs/stream", on("get", "runs")),
    ("POST", "/runs/{}/cancel", on("patch", "runs")),
    ("POST", "/runs/{}/artifacts", Access::RunOr { verb: "patch", resource: "runs" }),
    ("GET", "/runs/{}/artifacts/{}/content", on("get", "runs")),
    ("POST", "/runs/{}/tasks", Access::Run),
    ("GET", "/agents", on("list", "agentpools")),
    ("POST", "/agents", on("patch", "agentpools")),
    ("GET", "/agents/{}", on("get", "agentpools")),
    ("DELETE", "/agents/{}", on("patch", "agentpools")),
    ("POST", "/agents/{}/heartbeat", on("patch", "agentpools")),
    ("GET", "/plans", on("list", "tasks")),
    ("GET", "/judgements", on("list", "runs")),
    ("GET", "/judgements/{}/diff", on("get", "runs")),
    ("GET", "/config", on("get", "systems")),
    ("PATCH", "/config", on("patch", "systems")),
    ("GET", "/events", on("list", "tasks")),
    ("GET", "/events/stream", on("watch", "tasks")),
    ("GET", "/logs/all", on("list", "runs")),
    ("GET", "/logs/agents/{}", on("list", "runs")),
    ("GET", "/logs/cycle-manager", on("get", "systems")),
    ("POST", "/logs/clear", on("patch", "systems")),
    ("GET", "/system/processes", on("get", "systems")),
    ("GET", "/system/processes/{}", on("get", "systems")),
    ("POST", "/system/processes/{}/start", on("create", "operations")),
    ("POST", "/system/processes/{}/stop", on("create", "operations")),
    ("POST", "/system/processes/stop-all", on("create", "operations")),
    ("POST", "/system/preflight", on("create", "operations")),
    ("POST", "/system/cleanup", on("create", "operations")),
    ("GET", "/system/hatch", on("get", "systems")),
    ("POST", "/system/hatch", on("create", "operations")),
    ("POST", "/system/hatch/arm", on("create", "operations")),
    ("POST", "/system/hatch/disarm", on("create", "operations")),
    ("GET", "/system/runtime/throughput", on("get", "systems")),
    ("GET", "/system/requirements", on("get", "systems")),
    ("POST", "/system/requirements", on("patch", "systems")),
    ("GET", "/system/github/auth", on("get", "systems")),
    ("GET", "/system/github/repos", on("get", "systems")),
    ("POST", "/system/github/repo", on("patch", "systems")),
    ("GET", "/system/claude/auth", on("get", "systems")),
    ("GET", "/system/codex/auth", on("get", "systems")),
    ("GET", "/system/host/neofetch", on("get", "systems")),
    ("GET", "/system/host/context", on("get", "systems")),
    ("GET", "/system/browse-directories", on("get", "systems")),
    ("GET", "/chat/conversations", on("list", "tasks")),
];

/// What `method` on `route` touches. `None`: unknown, and therefore refused.
pub fn access(method: &Method, route: &str) -> Option<Access> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let found = ROUTES.iter().find(|(m, known, _)| *m == method && same(known, route));
    found.map(|(_, _, access)| *access)
}

/// Whether two routes are the same but for the names of their parameters.
fn same(known: &str, route: &str) -> bool {
    let mut theirs = route.split('/');
    let equal = known.split('/').all(|segment| {
        theirs.next().is_some_and(|other| segment == other || (segment == "{}" && other.starts_with('{')))
    });
    equal && theirs.next().is_none()
}

/// The scope a key needs. `None`: no key is asked for.
pub fn scope(method: &Method, route: &str, access: Access) -> Option<Scope> {
    let (Access::Resource { verb: _, resource } | Access::RunOr { verb: _, resource }) = access else {
        return None;
    };
    let system = route.starts_with("/system/") || matches!(resource, "systems" | "operations");
    Some(match (method == Method::GET || method == Method::HEAD, system) {
        (true, _) => Scope::Read,
        (false, true) => Scope::System,
        (false, false) => Scope::Write,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_follow_from_the_table() {
        for (method, route, expected) in [
            ("GET", "/tasks", Some(Scope::Read)),
            ("HEAD", "/tasks", Some(Scope::Read)),
            ("GET", "/system/processes", Some(Scope::Read)),
            ("GET", "/config", Some(Scope::Read)),
            ("POST", "/tasks", Some(Scope::Write)),
            ("DELETE", "/tasks/{id}", Some(Scope::Write)),
            ("POST", "/runs/{run}/cancel", Some(Scope::Write)),
            ("PATCH", "/config", Some(Scope::System)),
            ("POST", "/logs/clear", Some(Scope::System)),
            ("POST", "/system/processes/{name}/start", Some(Scope::System)),
            ("POST", "/system/preflight", Some(Scope::System)),
            ("GET", "/health", None),
            ("POST", "/webhook/github", None),
        ] {
            let method: Method = method.parse().expect("method");
            let access = access(&method, route).expect(route);
            assert_eq!(scope(&method, route, access), expected, "{method} {route}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_unknown() {
        for (method, route) in [
            ("PUT", "/tasks"),
            ("OPTIONS", "/tasks"),
            ("GET", "/task"),
            ("GET", "/tasks/"),
            ("GET", "/tasks/{id}/x"),
            ("GET", "/tasks/x"),
            ("POST", "/health"),
            ("get", "/tasks"),
        ] {
            assert_eq!(access(&method.parse().expect("method"), route), None, "{method} {route}");
        }
    }
}
