//! Repositories and skills, with the real git.

use crate::engine::{Attempt, envelope, failed, succeeded};
use loopy_contract::files::PACK_PART;
use loopy_contract::report::FailureClass;
use loopy_contract::repository::mirror_name;
use loopy_testkit::git::GitHost;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

/// Runs a script in `place`; gives its output.
pub(crate) fn shell(place: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(place)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A bare repository of three commits: `v1` is a tag on the first, `side` a
/// branch with the third.
fn origin() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    shell(
        place.path(),
        "git init -q -b main work && cd work
         git config user.email t@example.com && git config user.name t
         echo 1 > f && git add f && git commit -qm 1 && git tag v1
         echo 2 > f && git commit -qam 2
         git checkout -qb side && echo 3 > f && git commit -qam 3 && git checkout -q main
         git clone -q --bare . ../origin.git",
    );
    place
}

async fn cloned(repo: Value) -> Attempt {
    let attempt = Attempt::of(envelope(
        "cat */f */*/f > contents 2>/dev/null || true",
        json!({"repos": [repo]}),
    ));
    succeeded(&attempt.run().await);
    attempt
}

#[tokio::test]
async fn repositories_are_cloned_at_their_ref_path_and_depth() {
    let origin = origin();
    let url = format!("file://{}/origin.git", origin.path().display());
    let first = shell(origin.path(), "git -C origin.git rev-parse v1");
    let cases: [(Value, &str, &str, &str); 7] = [
        (json!({"url": url}), "origin", "2", "2"),
        (json!({"url": url, "path": "deep/er"}), "deep/er", "2", "2"),
        (json!({"url": url, "depth": 1}), "origin", "2", "1"),
        (
            json!({"url": url, "ref": "side", "depth": 1}),
            "origin",
            "3",
            "1",
        ),
        (json!({"url": url, "ref": "side"}), "origin", "3", "3"),
        (json!({"url": url, "ref": "v1"}), "origin", "1", "1"),
        (
            json!({"url": url, "ref": first, "depth": 1}),
            "origin",
            "1",
            "1",
        ),
    ];
    for (repo, path, content, commits) in cases {
        let attempt = cloned(repo.clone()).await;
        let clone = attempt.workspace().join(path);
        assert_eq!(shell(&clone, "cat f"), content, "{repo}");
        assert_eq!(
            shell(&clone, "git rev-list --count HEAD"),
            commits,
            "{repo}"
        );
    }
}

/// A repository with a commit of half a megabyte that cannot be compressed.
fn large_origin() -> TempDir {
    let place = origin();
    shell(
        place.path(),
        "cd work && head -c 500000 /dev/urandom > large && git add large
         git commit -qm large && git push -q ../origin.git main
         git -C ../origin.git config uploadpack.allowAnySHA1InWant true",
    );
    place
}

/// A mirror of `url` as the home makes it, with what is there now.
fn mirror(place: &Path, url: &str) {
    shell(
        place,
        &format!(
            "mkdir -p mirrors && cd mirrors && git init -q --bare {0} --template= &&
             git -C {0} -c fetch.unpackLimit=1 fetch -q {url} \
                 '+refs/heads/*:refs/heads/*' '+refs/tags/*:refs/tags/*'",
            mirror_name(url)
        ),
    );
}

/// Clones `repo` with the mirrors in `place`.
async fn cloned_with_mirrors(place: &Path, repo: &Value) -> Attempt {
    let mut attempt = Attempt::of(envelope("true", json!({"repos": [repo]})));
    attempt.mirrors = Some(place.join("mirrors"));
    succeeded(&attempt.run().await);
    attempt
}

#[tokio::test]
async fn what_a_mirror_has_is_not_fetched_again_and_what_is_new_is_there() {
    let origin = large_origin();
    let host = GitHost::start(origin.path(), None).unwrap();
    let url = host.url("origin.git");
    let place = tempfile::tempdir().unwrap();
    mirror(place.path(), &url);
    assert!(host.sent() > 500_000, "the mirror has it all");
    let large = shell(origin.path(), "git -C origin.git rev-parse main");
    // The branch moves after the mirror was made.
    shell(
        origin.path(),
        "cd work && echo new > f && git commit -qam new && git push -q ../origin.git main",
    );
    let cases = [
        (json!({"url": url}), "new", "4"),
        (json!({"url": url, "depth": 2}), "new", "2"),
        (json!({"url": url, "ref": "side"}), "3", "3"),
        (json!({"url": url, "ref": "main", "depth": 1}), "new", "1"),
        (json!({"url": url, "ref": large}), "2", "3"),
        (json!({"url": url, "ref": large, "depth": 1}), "2", "1"),
    ];
    for (repo, content, commits) in &cases {
        let attempt = cloned_with_mirrors(place.path(), repo).await;
        let sent = host.sent();
        assert!(sent < 5_000, "{sent} bytes were sent for {repo}");
        let clone = attempt.workspace().join("origin");
        assert_eq!(&shell(&clone, "cat f"), content, "{repo}");
        assert_eq!(
            &shell(&clone, "git rev-list --count HEAD"),
            commits,
            "{repo}"
        );
        assert_eq!(shell(&clone, "git status --porcelain"), "", "{repo}");
        // It needs the mirror no longer.
        assert!(
            !clone.join(".git/objects/info/alternates").exists(),
            "{repo}"
        );
        std::fs::rename(place.path().join("mirrors"), place.path().join("away")).unwrap();
        shell(&clone, "git fsck --strict && git log -p > /dev/null");
        std::fs::rename(place.path().join("away"), place.path().join("mirrors")).unwrap();
    }
    cloned(json!({"url": url})).await;
    assert!(host.sent() > 500_000, "without a mirror all of it is sent");
}

#[tokio::test]
async fn a_broken_mirror_is_left_alone() {
    let origin = large_origin();
    let host = GitHost::start(origin.path(), None).unwrap();
    let url = host.url("origin.git");
    let damages = [
        "rm objects/pack/*.pack",
        "rm objects/pack/*",
        "chmod u+w objects/pack/*.pack && head -c 200000 /dev/zero |
            dd of=\"$(echo objects/pack/*.pack)\" bs=1000 seek=100 conv=notrunc 2> /dev/null",
        "rm -r objects && ln -s /nowhere objects",
        "echo nothing > HEAD && rm -r refs && echo nonsense > packed-refs",
    ];
    let first = shell(origin.path(), "git -C origin.git rev-parse main");
    for damage in damages {
        let place = tempfile::tempdir().unwrap();
        mirror(place.path(), &url);
        shell(
            &place.path().join("mirrors").join(mirror_name(&url)),
            damage,
        );
        for repo in [
            json!({"url": url}),
            json!({"url": url, "path": "."}),
            json!({"url": url, "ref": first, "depth": 1}),
        ] {
            let attempt = cloned_with_mirrors(place.path(), &repo).await;
            let path = repo["path"].as_str().unwrap_or("origin");
            let clone = attempt.workspace().join(path);
            assert_eq!(shell(&clone, "cat f"), "2", "{damage}: {repo}");
            shell(&clone, "git fsck --strict");
        }
    }
}

#[tokio::test]
async fn a_clone_with_a_mirror_leaves_what_is_in_its_place() {
    let origin = large_origin();
    let host = GitHost::start(origin.path(), None).unwrap();
    let url = host.url("origin.git");
    let place = tempfile::tempdir().unwrap();
    mirror(place.path(), &url);
    let repos = json!([{"url": url}, {"url": url}]);
    let mut attempt = Attempt::of(envelope("true", json!({"repos": repos})));
    attempt.mirrors = Some(place.path().join("mirrors"));
    let result = attempt.run().await;
    let message = &failed(&result, FailureClass::Sandbox).message;
    assert!(message.contains("already exists"), "{message}");
    let clone = attempt.workspace().join("origin");
    assert_eq!(shell(&clone, "cat f"), "2", "the first one is still there");
}

#[tokio::test]
async fn a_clone_has_the_credential_helper_but_no_credential() {
    let origin = origin();
    let url = format!("file://{}/origin.git", origin.path().display());
    let first = shell(origin.path(), "git -C origin.git rev-parse v1");
    for repo in [
        json!({"url": url}),
        json!({"url": url, "ref": first, "depth": 1}),
    ] {
        let attempt = Attempt::of(envelope(
            // What git would use for GitHub, asked from inside a step.
            "cd origin\nprintf 'protocol=https\\nhost=github.com\\n\\n' | git credential fill > ../filled",
            json!({"repos": [repo], "env": {"GITHUB_TOKEN": "ghs_not-a-real-token"}}),
        ));
        succeeded(&attempt.run().await);
        let filled = std::fs::read_to_string(attempt.workspace().join("filled")).unwrap();
        assert!(filled.contains("username=x-access-token\npassword=ghs_not-a-real-token"));
        let found = Command::new("grep")
            .args(["-rl", "ghs_not-a-real-token", "origin/.git"])
            .current_dir(attempt.workspace())
            .output()
            .unwrap();
        assert!(found.stdout.is_empty(), "{found:?}");
    }
}

#[tokio::test]
async fn a_repository_that_cannot_be_cloned_fails_the_sandbox() {
    let origin = origin();
    let url = format!("{}/origin.git", origin.path().display());
    for (repo, part) in [
        (json!({"url": format!("{url}x")}), "origin.gitx"),
        (json!({"url": url, "ref": "no-such-ref"}), "no-such-ref"),
        (
            json!({"url": url, "ref": "--upload-pack=touch x"}),
            "which git cannot have",
        ),
        (
            json!({"url": url, "path": "../outside"}),
            "leaves the workspace",
        ),
        (
            json!({"url": url, "path": "/outside"}),
            "leaves the workspace",
        ),
    ] {
        let attempt = Attempt::of(envelope("true", json!({"repos": [repo]})));
        let result = attempt.run().await;
        let message = &failed(&result, FailureClass::Sandbox).message;
        assert!(message.contains(part), "{part}: {message}");
        assert!(!attempt.place.path().join("outside").exists());
    }
}

#[tokio::test]
async fn skills_are_written_where_agents_look() {
    // base64 of "# Lint"
    let skills = json!({"lint": {"SKILL.md": "IyBMaW50", "notes/a.md": "IyBMaW50"}});
    let attempt = Attempt::of(envelope(
        "cat .agents/skills/lint/SKILL.md .claude/skills/lint/notes/a.md > seen",
        json!({"skills": skills}),
    ));
    succeeded(&attempt.run().await);
    let seen = std::fs::read_to_string(attempt.workspace().join("seen")).unwrap();
    assert_eq!(seen, "# Lint# Lint");

    let skills = json!({"lint": {"../../../../evil": "IyBMaW50"}});
    let attempt = Attempt::of(envelope("true", json!({"skills": skills})));
    let result = attempt.run().await;
    assert!(
        failed(&result, FailureClass::Sandbox)
            .message
            .contains("leaves the workspace")
    );
}

#[tokio::test]
async fn skills_too_large_for_an_envelope_are_fetched_in_parts() {
    let size = 2 * PACK_PART + 7;
    let attempt = Attempt::of(envelope(
        "cd .agents/skills; wc -c < big/data.bin > ../../seen; cat big/SKILL.md big/empty >> ../../seen",
        json!({"skill_files": {"big": {"SKILL.md": 6, "data.bin": size, "empty": 0}}}),
    ));
    let give = |path: &str, bytes: Vec<u8>| {
        let key = ("big".to_owned(), path.to_owned());
        attempt.record.skills.lock().unwrap().insert(key, bytes);
    };
    give("SKILL.md", b"# Big\n".to_vec());
    give("data.bin", vec![7; size]);
    // An answer that is lost is asked for again.
    attempt.record.lost.store(1, Ordering::SeqCst);
    succeeded(&attempt.run().await);
    let seen = std::fs::read_to_string(attempt.workspace().join("seen")).unwrap();
    assert_eq!(seen, format!("{size}\n# Big\n"));
    assert_eq!(attempt.record.asked.load(Ordering::SeqCst), 5);

    // One that is shorter than it was said to be is not taken.
    let attempt = Attempt::of(envelope(
        "true",
        json!({"skill_files": {"big": {"SKILL.md": 9}}}),
    ));
    let key = ("big".to_owned(), "SKILL.md".to_owned());
    let skills = &attempt.record.skills;
    skills.lock().unwrap().insert(key, b"# Big\n".to_vec());
    let result = attempt.run().await;
    let failure = failed(&result, FailureClass::Sandbox);
    assert!(failure.message.contains("SKILL.md"), "{}", failure.message);
}
