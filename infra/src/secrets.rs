//! Secret values: read from the project's files and the environment before
//! anything is deployed, and put into the stack's secrets afterwards. They are
//! in no template, no parameter, no log and no error.

mod kept;

pub use kept::Kept;

use crate::stack::{DAYTONA_VARIABLES, GITHUB_VARIABLES, Needs};
use loopy_contract::manifest::previous_secret;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The file with the engine's own variables, below the project's root.
pub const ENGINE_FILE: &str = "loopy.env";

/// The file with the Python sensors' variables, below the project's root.
pub const SENSOR_FILE: &str = "sensors/.env";

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// The values a stack needs. Never shown.
#[derive(Clone, Default)]
pub struct Values {
    webhooks: Variables,
    sandboxes: BTreeMap<String, Variables>,
    engine: Variables,
    github: Variables,
    sensors: Variables,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Values(…)")
    }
}

/// Secret values are missing, or could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Some are missing; each is named with the place it is looked for.
    #[error("secrets are missing:\n{}", .0.iter().map(|m| format!("  {m}")).collect::<Vec<_>>().join("\n"))]
    Missing(Vec<String>),
    /// A dotenv file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line that is not `KEY=VALUE`.
    #[error("{}:{line}: this is not KEY=VALUE", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A path that leaves the project.
    #[error("env_file `{path}` of sandbox {sandbox} leaves the project")]
    Outside {
        /// The sandbox.
        sandbox: String,
        /// The path as written.
        path: String,
    },
    /// The stack has no such secret.
    #[error("the stack has no output {0}; deploy it again")]
    NoSecret(&'static str),
    /// Secrets Manager refused.
    #[error("cannot {action} secret {secret}: {why}")]
    Service {
        /// What was tried.
        action: &'static str,
        /// The secret's ARN.
        secret: String,
        /// What it said.
        why: String,
    },
}

impl Values {
    /// Reads what `needs` names: webhook secrets and the provider's credentials
    /// from `environment` (this process's) and, where that has none,
    /// `loopy.env`; each sandbox's variables from its `env_file`s, later files
    /// winning; the sensors' from `sensors/.env`. With `name`, an environment's name,
    /// each of these files has another one laid over it, where there is one:
    /// `loopy.staging.env` over `loopy.env`, `sensors/.staging.env` over `sensors/.env`.
    ///
    /// # Errors
    /// [`SecretsError`] names every variable or file that is missing.
    pub fn read(
        root: &Path,
        needs: &Needs,
        environment: &Variables,
        name: Option<&str>,
    ) -> Result<Self, SecretsError> {
        let mut own = engine_variables(root, name)?;
        own.extend(
            environment
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        own.retain(|_, value| !value.is_empty());

        let mut missing = Vec::new();
        let mut values = Self::default();
        for (variable, sensors) in &needs.webhooks {
            if let Some(value) = own.get(variable) {
                values.webhooks.insert(variable.clone(), value.clone());
                let previous = previous_secret(variable);
                if let Some(value) = own.get(&previous) {
                    values.webhooks.insert(previous, value.clone());
                }
            } else {
                missing.push(format!(
                    "{variable}, for sensor {} (in the environment or {ENGINE_FILE})",
                    sensors.join(", ")
                ));
            }
        }
        if needs.daytona {
            for variable in DAYTONA_VARIABLES {
                if let Some(value) = own.get(variable) {
                    values.engine.insert(variable.to_owned(), value.clone());
                }
            }
            let key = DAYTONA_VARIABLES[0];
            if !values.engine.contains_key(key) {
                missing.push(format!(
                    "{key}, for the daytona sandboxes (in the environment or {ENGINE_FILE})"
                ));
            }
        }
        if needs.github {
            // A sandbox may bring a token of its own, and a public repository
            // needs none: that there is no App is no error here.
            for variable in GITHUB_VARIABLES {
                if let Some(value) = own.get(variable) {
                    values.github.insert(variable.to_owned(), value.clone());
                }
            }
        }
        for (sandbox, files) in &needs.sandboxes {
            let variables = values.sandboxes.entry(sandbox.clone()).or_default();
            for file in files {
                let path = Path::new(file);
                if !path
                    .components()
                    .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
                {
                    return Err(SecretsError::Outside {
                        sandbox: sandbox.clone(),
                        path: file.clone(),
                    });
                }
                match read_laid_over(&root.join(path), name)? {
                    Some(found) => variables.extend(found),
                    None => missing.push(format!("the file {file}, env_file of sandbox {sandbox}")),
                }
            }
        }
        if needs.sensors {
            values.sensors = read_laid_over(&root.join(SENSOR_FILE), name)?.unwrap_or_default();
        }
        if missing.is_empty() {
            Ok(values)
        } else {
            Err(SecretsError::Missing(missing))
        }
    }
}

/// What `loopy.env` says, and with an environment's `name` what `loopy.NAME.env` lays over
/// it; neither has to be there.
///
/// # Errors
/// [`SecretsError`]: a file cannot be read.
pub fn engine_variables(root: &Path, name: Option<&str>) -> Result<Variables, SecretsError> {
    Ok(read_laid_over(&root.join(ENGINE_FILE), name)?.unwrap_or_default())
}

/// Reads a file and what lies over it in this environment; `None` when there is
/// neither.
fn read_laid_over(path: &Path, name: Option<&str>) -> Result<Option<Variables>, SecretsError> {
    let over = name.and_then(|name| {
        let file = path.file_name()?.to_str()?;
        let stem = file.strip_suffix(".env")?;
        Some(path.with_file_name(format!("{stem}.{name}.env")))
    });
    let mut found = None;
    for path in [Some(path.to_owned()), over].into_iter().flatten() {
        if path.is_file() {
            found
                .get_or_insert_with(Variables::new)
                .extend(read_file(&path)?);
        }
    }
    Ok(found)
}

/// Reads a dotenv file: `KEY=VALUE` a line, `#` before whole-line comments,
/// blanks and surrounding quotes taken off the value, nothing interpolated.
fn read_file(path: &Path) -> Result<Variables, SecretsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SecretsError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|line| SecretsError::Line {
        path: path.to_owned(),
        line,
    })
}

/// The variables, or the number of the first line that has none.
fn parse(text: &str) -> Result<Variables, usize> {
    let mut variables = Variables::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(index + 1)?;
        let name = name.trim();
        let is_name = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(index + 1);
        }
        let value = value.trim().trim_matches('"').trim_matches('\'');
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn dotenv_rules() {
        let text =
            "# a comment\n\nA=1\n B = \"two words\" \nC='x # y'\nD=a=b\nE=\nF=\"'q'\"\nG=$A\n";
        let expected = variables(&[
            ("A", "1"),
            ("B", "two words"),
            ("C", "x # y"),
            ("D", "a=b"),
            ("E", ""),
            ("F", "q"),
            ("G", "$A"),
        ]);
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_no_variable_is_named_and_not_quoted() {
        assert_eq!(parse("A=1\nexport B=2\n").unwrap_err(), 2);
        assert_eq!(parse("hunter2").unwrap_err(), 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.env");
        std::fs::write(&path, "A=1\nhunter2\n").unwrap();
        let error = read_file(&path).unwrap_err().to_string();
        assert!(
            error.contains("x.env:2") && !error.contains("hunter2"),
            "{error}"
        );
    }

    fn needs() -> Needs {
        Needs {
            webhooks: [("GITHUB_WEBHOOK_SECRET".to_owned(), vec!["pr".to_owned()])].into(),
            sandboxes: [(
                "Dev".to_owned(),
                vec!["a.env".to_owned(), "b.env".to_owned()],
            )]
            .into(),
            github: true,
            daytona: true,
            sensors: false,
        }
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.env"), "A=1\n").unwrap();
        std::fs::write(folder.path().join("loopy.env"), "GITHUB_WEBHOOK_SECRET=\n").unwrap();
        let error = Values::read(folder.path(), &needs(), &Variables::new(), None).unwrap_err();
        let SecretsError::Missing(missing) = error else {
            unreachable!("{error}")
        };
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(missing[0].starts_with("GITHUB_WEBHOOK_SECRET, for sensor pr"));
        assert!(missing[1].starts_with("DAYTONA_API_KEY"));
        assert!(missing[2].contains("b.env"));
    }

    #[test]
    fn an_environment_lays_its_files_over_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write(
            "loopy.env",
            "GITHUB_WEBHOOK_SECRET=s\nDAYTONA_API_KEY=live\n",
        );
        write("loopy.staging.env", "DAYTONA_API_KEY=trial\n");
        write("a.env", "A=1\nB=1\n");
        write("a.staging.env", "B=2\n");
        write("b.staging.env", "C=3\n");
        std::fs::create_dir(folder.path().join("sensors")).unwrap();
        write("sensors/.env", "S=1\n");
        write("sensors/.staging.env", "S=2\n");
        let mut needs = needs();
        needs.sensors = true;
        let none = Variables::new();
        let values = Values::read(folder.path(), &needs, &none, Some("staging")).unwrap();
        assert_eq!(values.engine["DAYTONA_API_KEY"], "trial");
        assert_eq!(values.webhooks["GITHUB_WEBHOOK_SECRET"], "s");
        let dev = variables(&[("A", "1"), ("B", "2"), ("C", "3")]);
        assert_eq!(values.sandboxes["Dev"], dev);
        assert_eq!(values.sensors, variables(&[("S", "2")]));
        // Elsewhere nothing of it counts.
        let missing = Values::read(folder.path(), &needs, &none, None).unwrap_err();
        assert!(missing.to_string().contains("b.env"), "{missing}");
    }

    #[test]
    fn the_environment_wins_over_the_file_and_later_files_over_earlier() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write(
            "loopy.env",
            "GITHUB_WEBHOOK_SECRET=old\nGITHUB_WEBHOOK_SECRET_PREVIOUS=older\n\
             DAYTONA_API_KEY=key\nGITHUB_APP_ID=12\nOTHER=no\n",
        );
        write("a.env", "A=1\nB=1\n");
        write("b.env", "B=2\n");
        let environment = variables(&[("GITHUB_WEBHOOK_SECRET", "new")]);
        let values = Values::read(folder.path(), &needs(), &environment, None).unwrap();
        assert_eq!(
            values.webhooks,
            variables(&[
                ("GITHUB_WEBHOOK_SECRET", "new"),
                ("GITHUB_WEBHOOK_SECRET_PREVIOUS", "older")
            ])
        );
        assert_eq!(values.engine, variables(&[("DAYTONA_API_KEY", "key")]));
        assert_eq!(values.github, variables(&[("GITHUB_APP_ID", "12")]));
        assert_eq!(
            values.sandboxes["Dev"],
            variables(&[("A", "1"), ("B", "2")])
        );
        assert_eq!(format!("{values:?}"), "Values(…)");
    }

    #[test]
    fn a_path_out_of_the_project_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../x.env", "/etc/passwd", "a/../../x.env"] {
            let needs = Needs {
                sandboxes: [("Dev".to_owned(), vec![path.to_owned()])].into(),
                ..Needs::default()
            };
            let error = Values::read(folder.path(), &needs, &Variables::new(), None).unwrap_err();
            assert!(matches!(error, SecretsError::Outside { .. }), "{error}");
        }
    }
}
