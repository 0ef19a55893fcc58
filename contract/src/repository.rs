//! How git is asked for a repository, and what its mirror is called: what the home
//! that keeps a mirror and the runner that clones have to agree upon.

use crate::ids;

/// Configuration (`NAME=value`) by which git reads the token from the environment when
/// it asks, so that it is in no argument, no URL and no file. Its text goes into a
/// clone's configuration: the agent can push under the same variable.
pub const GITHUB_CREDENTIALS: &str = concat!(
    "credential.https://github.com.helper=",
    "!f() { test \"$1\" = get && test -n \"$GITHUB_TOKEN\" ",
    "&& echo username=x-access-token && echo \"password=$GITHUB_TOKEN\"; }; f"
);

/// What git clones: `owner/name` is a repository on GitHub; all else is what git takes.
pub fn clone_url(url: &str) -> String {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with(['-', '.'])
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match url.split_once('/') {
        Some((owner, name)) if is_word(owner) && is_word(name) => {
            format!(
                "https://github.com/{owner}/{}.git",
                name.trim_end_matches(".git")
            )
        }
        _ => url.to_owned(),
    }
}

/// The name of the mirror of what [`clone_url`] gave, a folder in
/// [`MIRRORS`](crate::report::launch_env::MIRRORS).
pub fn mirror_name(clone_url: &str) -> String {
    format!("{}.git", ids::derive(&[clone_url], 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_on_github_and_urls_stay() {
        for url in ["octo/hello.world", "octo/hello.world.git"] {
            assert_eq!(clone_url(url), "https://github.com/octo/hello.world.git");
        }
        for url in [
            "https://x.org/a/b.git",
            "git@github.com:a/b.git",
            "/srv/a.git",
            "../a",
            "ssh://h/a",
        ] {
            assert_eq!(clone_url(url), url);
        }
    }

    #[test]
    fn the_name_of_a_mirror_holds_nothing_of_its_url() {
        let name = mirror_name("https://x.org/../a b.git");
        assert!(name.ends_with(".git") && name.len() == 36, "{name}");
        assert_ne!(name, mirror_name("https://x.org/b.git"));
    }
}
