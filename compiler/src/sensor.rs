//! Reads sensors, whatever they are written in. Their code is never run.

pub(crate) mod javascript;
mod node;
mod python;
mod shell;
mod typescript;

use crate::catalogue::{namespace, scheme_of_path};
use crate::diagnostic::{Code, Report, Span};
use crate::duration;
use crate::nearest::did_you_mean;
use crate::registry::RegistryDraft;
use crate::sources::Sources;
use loopy_contract::manifest::{Sensor, SensorSource, SensorTrigger, VerifyScheme};
use std::collections::{BTreeMap, BTreeSet};

/// A sensor and where it is written.
#[derive(Debug)]
pub(crate) struct SensorDraft {
    pub(crate) sensor: Sensor,
    pub(crate) file: String,
    pub(crate) span: Span,
}

/// All sensors that could be read.
#[derive(Debug, Default)]
pub(crate) struct Sensors {
    pub(crate) drafts: Vec<SensorDraft>,
}

/// What a file says about one sensor, before any check. It knows whether an
/// argument is there, and its value when that is a literal.
#[derive(Debug)]
struct Declared {
    name: String,
    span: Span,
    emits: Argument,
    webhook: Argument,
    poll: Argument,
    verify: Argument,
    /// Its text is `true` or `false`.
    on_change: Argument,
    /// What else it says; no sensor has that.
    unknown: Vec<(String, Span)>,
    module: String,
    function: Option<String>,
}

/// An argument of a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Argument {
    Absent,
    /// Given, but not as a literal text.
    Dynamic(Span),
    Text(String, Span),
}

impl Argument {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text, _) => Some(text),
            _ => None,
        }
    }
}

/// What a file says.
#[derive(Debug, Default)]
struct Found {
    declared: Vec<Declared>,
    overlooked: Vec<Overlooked>,
}

impl From<Vec<Declared>> for Found {
    fn from(declared: Vec<Declared>) -> Self {
        Self {
            declared,
            ..Self::default()
        }
    }
}

/// What looks like a sensor and is none.
#[derive(Debug)]
struct Overlooked {
    span: Span,
    message: String,
    hint: &'static str,
}

/// Why a file, or a declaration in it, cannot be read.
#[derive(Debug)]
struct Unreadable {
    span: Span,
    message: String,
}

/// Reads all sensor files.
pub(crate) fn read_all(sources: &Sources, report: &mut Report) -> Sensors {
    let mut reader = Reader {
        report,
        sensors: Sensors::default(),
        routes: BTreeSet::new(),
        refused: BTreeSet::new(),
    };
    for (path, file) in sources.below("sensors/") {
        let file_name = path.rsplit('/').next().unwrap_or(path);
        let read = match file_name.rsplit_once('.') {
            Some((_, "py")) if file_name != "__init__.py" => python::read,
            Some((_, "sh")) => shell::read,
            Some((_, "ts")) if !file_name.ends_with(".d.ts") => typescript::read,
            other => {
                if let Err(why) = file.readable() {
                    reader.unreadable(path, Span::START, why);
                }
                if let (Some((_, ending)), Ok(text)) = (other, file.text()) {
                    let found = typescript::elsewhere(ending, text);
                    reader.overlooked(path, found);
                }
                continue;
            }
        };
        let source = match file_name.rsplit_once('.') {
            Some((_, "sh")) => SensorSource::Shell,
            Some((_, "ts")) => SensorSource::Typescript,
            _ => SensorSource::Module,
        };
        match file.text() {
            Err(why) => reader.unreadable(path, Span::START, why),
            Ok(text) => match read(path, text) {
                Err(why) => reader.unreadable(path, why.span, why.message),
                Ok(found) => {
                    let declared = found.declared;
                    reader.overlooked(path, found.overlooked);
                    if declared.is_empty() && source == SensorSource::Shell {
                        reader.no_header(path);
                    }
                    for declared in declared {
                        reader.take(path, source, declared);
                    }
                }
            },
        }
    }
    reader.settle_schemes();
    reader.sensors
}

struct Reader<'a> {
    report: &'a mut Report,
    sensors: Sensors,
    /// The pairs of path and event that are taken.
    routes: BTreeSet<(String, String)>,
    /// The paths with a scheme that was refused.
    refused: BTreeSet<String>,
}

impl Reader<'_> {
    fn unreadable(&mut self, path: &str, span: Span, message: String) {
        self.report.add(Code::E402, path, span, message);
    }

    fn overlooked(&mut self, path: &str, found: impl IntoIterator<Item = Overlooked>) {
        for one in found {
            self.report
                .add(Code::W404, path, one.span, one.message)
                .hint(one.hint);
        }
    }

    /// What a sensor cannot have.
    fn unknown(&mut self, path: &str, source: SensorSource, declared: &Declared) {
        let known = match source {
            SensorSource::Typescript => typescript::KEYS.as_slice(),
            _ => python::KEYWORDS.as_slice(),
        };
        for (key, at) in &declared.unknown {
            let message = format!(
                "sensor `{}` has `{key}`, which no sensor has",
                declared.name
            );
            let hint = did_you_mean(key, known.iter().copied())
                .unwrap_or_else(|| format!("a sensor has {}", known.join(", ")));
            self.report.add(Code::E402, path, *at, message).hint(hint);
        }
    }

    fn no_header(&mut self, path: &str) {
        self.report
            .add(
                Code::W402,
                path,
                Span::START,
                "the script has no `# loopy:` line, so it is no sensor",
            )
            .hint("write # loopy: poll=\"5m\" emits=\"Event\" at its top");
    }

    fn take(&mut self, path: &str, source: SensorSource, declared: Declared) {
        self.unknown(path, source, &declared);
        let (name, span) = (declared.name, declared.span);
        let Argument::Text(emits, emits_span) = declared.emits else {
            let (at, message) = match declared.emits {
                Argument::Dynamic(at) => (at, "`emits` that is no literal text"),
                _ => (span, "no `emits`"),
            };
            self.report
                .add(
                    Code::E402,
                    path,
                    at,
                    format!("sensor `{name}` has {message}"),
                )
                .hint("name the event it makes: emits=\"Event\"");
            return;
        };
        let verify = self.scheme(
            path,
            &name,
            &declared.verify,
            declared.poll.text().is_some(),
        );
        let polls = declared.poll.text().is_some();
        let Ok(on_change) = self.on_change(path, &name, &declared.on_change, polls) else {
            return;
        };
        let trigger = match (declared.webhook, declared.poll) {
            (Argument::Text(route, at), Argument::Absent) => {
                if let Some(Unreachable { why, hint }) = unreachable_route(&route) {
                    let message = format!("the path `{route}` of sensor `{name}` {why}");
                    self.report.add(Code::E406, path, at, message).hint(hint);
                }
                if !self.routes.insert((route.clone(), emits.clone())) {
                    self.report.add(
                        Code::E403,
                        path,
                        span,
                        format!("another sensor already emits `{emits}` at `{route}`"),
                    );
                    return;
                }
                if verify.is_none() && declared.verify != Argument::Absent {
                    self.refused.insert(route.clone());
                }
                let verify = verify.or_else(|| scheme_of_path(&route));
                SensorTrigger::Webhook {
                    path: route,
                    verify,
                }
            }
            (Argument::Absent, Argument::Text(interval, at)) => {
                match duration::seconds(&interval) {
                    Some(seconds) => {
                        if seconds == 0 {
                            self.report
                                .add(
                                    Code::W403,
                                    path,
                                    at,
                                    format!(
                                        "sensor `{name}` polls every `{interval}`, without a pause"
                                    ),
                                )
                                .hint("give an interval above zero, such as 5m");
                        }
                        SensorTrigger::Poll {
                            interval,
                            on_change,
                        }
                    }
                    None => {
                        self.no_trigger(
                            path,
                            at,
                            format!(
                                "sensor `{name}` polls every `{interval}`, which is no interval"
                            ),
                            "an interval is a number and one of s, m, h, d: 5m",
                        );
                        return;
                    }
                }
            }
            (webhook, poll) => {
                let both = webhook != Argument::Absent && poll != Argument::Absent;
                let dynamic = [&webhook, &poll]
                    .into_iter()
                    .find_map(|argument| match argument {
                        Argument::Dynamic(at) => Some(*at),
                        _ => None,
                    });
                let (at, why) = match dynamic {
                    _ if both => (span, "both `webhook` and `poll`"),
                    Some(at) => (at, "a trigger that is no literal text"),
                    None => (span, "neither `webhook` nor `poll`"),
                };
                self.no_trigger(
                    path,
                    at,
                    format!("sensor `{name}` has {why}"),
                    "give it webhook=\"/hooks/name\" or poll=\"5m\"",
                );
                return;
            }
        };
        if let Some(namespace) = namespace(&emits) {
            let message = format!(
                "sensor `{name}` cannot emit `{emits}`: `{namespace}` belongs to built-in events"
            );
            self.report.add(Code::E215, path, emits_span, message);
        }
        let module = if source == SensorSource::Module {
            dotted(path)
        } else {
            declared.module
        };
        self.sensors.drafts.push(SensorDraft {
            sensor: Sensor {
                name,
                trigger,
                emits,
                source,
                provider: None,
                mapping: None,
                module: Some(module),
                function: declared.function,
            },
            file: path.to_owned(),
            span,
        });
    }

    fn no_trigger(&mut self, path: &str, span: Span, message: String, hint: &str) {
        self.report.add(Code::E403, path, span, message).hint(hint);
    }

    /// Whether only changes are events.
    fn on_change(
        &mut self,
        path: &str,
        name: &str,
        argument: &Argument,
        polls: bool,
    ) -> Result<bool, ()> {
        let (at, why) = match argument {
            Argument::Absent => return Ok(false),
            Argument::Text(_, at) if !polls => {
                (at, "is for a sensor that polls, and this one does not")
            }
            Argument::Text(text, _) if text == "true" => return Ok(true),
            Argument::Text(text, _) if text == "false" => return Ok(false),
            Argument::Text(_, at) | Argument::Dynamic(at) => (at, "is neither true nor false"),
        };
        let message = format!("`on_change` of sensor `{name}` {why}");
        let hint = "with it, an event that the last turn gave as well is kept back";
        self.no_trigger(path, *at, message, hint);
        Err(())
    }

    fn scheme(
        &mut self,
        path: &str,
        name: &str,
        verify: &Argument,
        polls: bool,
    ) -> Option<VerifyScheme> {
        let names = VerifyScheme::ALL.map(VerifyScheme::name);
        let hint = || format!("the schemes are {}", names.join(", "));
        match verify {
            Argument::Absent => None,
            Argument::Dynamic(at) => {
                self.report
                    .add(
                        Code::E404,
                        path,
                        *at,
                        format!("`verify` of sensor `{name}` is no literal text"),
                    )
                    .hint(hint());
                None
            }
            Argument::Text(_, at) if polls => {
                let message = format!("sensor `{name}` polls, so it has nothing to verify");
                self.report.add(Code::E404, path, *at, message);
                None
            }
            Argument::Text(text, at) => {
                let scheme = VerifyScheme::from_name(text);
                if scheme.is_none() {
                    self.report
                        .add(
                            Code::E404,
                            path,
                            *at,
                            format!("sensor `{name}` names the signature scheme `{text}`, which is not known"),
                        )
                        .hint(did_you_mean(text, names).unwrap_or_else(hint));
                }
                scheme
            }
        }
    }

    /// A delivery has one signature, so all sensors at one path share a scheme:
    /// those that name none take that of their neighbours.
    fn settle_schemes(&mut self) {
        let mut schemes: BTreeMap<String, VerifyScheme> = BTreeMap::new();
        for draft in &self.sensors.drafts {
            if let SensorTrigger::Webhook {
                path,
                verify: Some(scheme),
            } = &draft.sensor.trigger
            {
                let first = *schemes.entry(path.clone()).or_insert(*scheme);
                if first != *scheme {
                    self.report.add(
                        Code::E404,
                        &draft.file,
                        draft.span,
                        format!(
                            "sensor `{}` verifies `{path}` as `{}`, another sensor as `{}`",
                            draft.sensor.name,
                            scheme.name(),
                            first.name()
                        ),
                    );
                }
            }
        }
        for draft in &mut self.sensors.drafts {
            if let SensorTrigger::Webhook { path, verify } = &mut draft.sensor.trigger {
                *verify = verify.or_else(|| schemes.get(path.as_str()).copied());
                if verify.is_none() && !self.refused.contains(path) {
                    self.report
                        .add(
                            Code::W401,
                            &draft.file,
                            draft.span,
                            format!(
                                "anyone can post to `{path}`: sensor `{}` verifies no signature",
                                draft.sensor.name
                            ),
                        )
                        .hint("name the scheme, such as verify=\"github\"; verify=\"none\" opts out, and deploy refuses what says nothing");
                }
            }
        }
    }
}

/// Why no delivery would ever come to a path, and what to do.
struct Unreachable {
    why: String,
    hint: String,
}

/// Why no request has this path as it is written, or why it is not a sensor's to take.
fn unreachable_route(route: &str) -> Option<Unreachable> {
    let told = |why: &str, hint: String| {
        let why = why.to_owned();
        Some(Unreachable { why, hint })
    };
    let elsewhere = || "take another one, such as \"/hooks/name\"".to_owned();
    if !route.starts_with('/') {
        return told("does not start with `/`", format!("write \"/{route}\""));
    }
    if route == "/healthz" {
        return told("is where `loopy run` says that it is well", elsewhere());
    }
    if route.starts_with("/_loopy/") {
        return told("is where runners report to `loopy run`", elsewhere());
    }
    if let Some((before, _)) = route.split_once(['?', '#']) {
        return told(
            "has more than a path in it, and only the path of a request is compared",
            format!("write \"{before}\"; a sensor finds the query in its request"),
        );
    }
    let dots = |part: &str| part == "." || part == "..";
    if let Some(part) = route.split('/').find(|part| dots(part)) {
        return told(
            &format!("has the part `{part}`, which whoever sends takes out first"),
            "write the path that is left".to_owned(),
        );
    }
    let mut plain = String::new();
    let mut wrong = None;
    for (at, letter) in route.char_indices() {
        let bytes = route.as_bytes();
        let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        let travels = letter.is_ascii_alphanumeric()
            || "-._~!$&'()*+,;=:@/".contains(letter)
            || (letter == '%' && hex(at + 1) && hex(at + 2));
        if travels {
            plain.push(letter);
        } else {
            wrong = wrong.or(Some(letter));
            let mut buffer = [0; 4];
            for byte in letter.encode_utf8(&mut buffer).bytes() {
                plain.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    let wrong = wrong?;
    told(
        &format!("has {wrong:?} in it, which a request cannot carry as it is"),
        format!("write it as it is sent: \"{plain}\""),
    )
}

/// The dotted module of a Python file: `sensors.deep.more`.
fn dotted(path: &str) -> String {
    path.strip_suffix(".py").unwrap_or(path).replace('/', ".")
}

/// Checks the names of sensors and the events they emit.
pub(crate) fn check(sensors: &Sensors, registry: &RegistryDraft, report: &mut Report) {
    let mut names: BTreeMap<&str, &SensorDraft> = BTreeMap::new();
    for draft in &sensors.drafts {
        let sensor = &draft.sensor;
        if let Some(first) = names.get(sensor.name.as_str()) {
            report
                .add(
                    Code::E405,
                    &draft.file,
                    draft.span,
                    format!("sensor `{}` is also in {}", sensor.name, first.file),
                )
                .hint("give it a name of its own; what it has seen is kept under its name");
        } else {
            names.insert(&sensor.name, draft);
        }
        if registry.events.lacks(&sensor.emits) {
            report
                .add(
                    Code::E401,
                    &draft.file,
                    draft.span,
                    format!(
                        "sensor `{}` emits `{}`, which registry.yml does not list",
                        sensor.name, sensor.emits
                    ),
                )
                .hint_if(did_you_mean(&sensor.emits, registry.events.names()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_no_request_can_have_is_told_with_what_to_write() {
        for route in [
            "/",
            "/hooks/x",
            "/hooks/a-b_c.d~e",
            "/hooks/%C3%BCber",
            "/hooks/a+b;c=d,(e)!'*@:$&",
            "/hooks/...",
            "/healthz/x",
            "/_loopyx",
            "/hooks/",
        ] {
            assert!(unreachable_route(route).is_none(), "{route}");
        }
        for (route, why, hint) in [
            ("hooks/x", "start with", "\"/hooks/x\""),
            ("/hooks/über", "'ü'", "\"/hooks/%C3%BCber\""),
            ("/hooks/a b", "' '", "\"/hooks/a%20b\""),
            ("/hooks/a%2", "'%'", "\"/hooks/a%252\""),
            ("/hooks/{id}", "'{'", "\"/hooks/%7Bid%7D\""),
            ("/hooks/x?team=1", "more than a path", "\"/hooks/x\""),
            ("/hooks/x#a", "more than a path", "\"/hooks/x\""),
            ("/hooks/../x", "`..`", "left"),
            ("/hooks/.", "`.`", "left"),
            ("/healthz", "well", "another"),
            ("/_loopy/v1", "runners", "another"),
        ] {
            let found = unreachable_route(route).map(|told| (told.why, told.hint));
            let told = found.unwrap_or_default();
            assert!(
                told.0.contains(why) && told.1.contains(hint),
                "{route}: {told:?}"
            );
        }
    }
}
