//! Finds the name an author most likely meant.

/// The candidate closest to `name`, if one is close enough to be a slip of the
/// keyboard: at most a third of the letters differ.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wanted: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
    // Names this long are not typed, and each comparison costs their square.
    if wanted.len() > 64 {
        return None;
    }
    let allowed = (wanted.len() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
            if letters.len().abs_diff(wanted.len()) > allowed {
                return None;
            }
            let distance = distance(&wanted, &letters);
            (distance <= allowed).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many names [`few`] gives.
const FEW: usize = 4;

/// The candidates that may have been meant by `name`, the closest first: those
/// a slip of the keyboard away, then those that begin like it, by at least four
/// letters behind the first `skip`.
pub(crate) fn few<'a>(
    name: &str,
    skip: usize,
    candidates: impl Iterator<Item = &'a str>,
) -> Vec<&'a str> {
    let letters = |text: &str| -> Vec<char> { text.chars().skip(skip).collect() };
    let lower =
        |letters: &[char]| -> Vec<char> { letters.iter().flat_map(|c| c.to_lowercase()).collect() };
    let wanted = lower(&letters(name));
    if wanted.len() > 64 {
        return Vec::new();
    }
    let allowed = (wanted.len() / 3).max(1);
    let (mut slips, mut alike) = (Vec::new(), Vec::new());
    for candidate in candidates {
        let given = lower(&letters(candidate));
        let apart = distance(&wanted, &given);
        let same = wanted
            .iter()
            .zip(&given)
            .take_while(|(a, b)| a == b)
            .count();
        if apart <= allowed {
            slips.push((apart, candidate));
        } else if same >= 4 {
            alike.push((usize::MAX - same, apart, candidate));
        }
    }
    slips.sort_unstable();
    alike.sort_unstable();
    let slips = slips.into_iter().map(|(_, candidate)| candidate);
    let alike = alike.into_iter().map(|(_, _, candidate)| candidate);
    slips.chain(alike).take(FEW).collect()
}

/// ``did you mean `X`, `Y` or `Z`?``; nothing when there are none.
pub fn did_you_mean_one(names: &[impl AsRef<str>]) -> Option<String> {
    let quoted = |name: &dyn AsRef<str>| format!("`{}`", name.as_ref());
    let (last, others) = names.split_last()?;
    let others: Vec<String> = others.iter().map(|name| quoted(name)).collect();
    Some(match others.is_empty() {
        true => format!("did you mean {}?", quoted(last)),
        false => format!("did you mean {} or {}?", others.join(", "), quoted(last)),
    })
}

/// ``did you mean `X`?`` for the nearest candidate.
pub fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(name, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Damerau–Levenshtein distance with adjacent transpositions.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(from != to))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *to && *from == b[j - 1] {
                cost = cost.min(before_last[j - 1] + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let keys = ["on", "after", "agent", "output", "emits", "budget"];
        assert_eq!(nearest("outputs", keys), Some("output"));
        assert_eq!(nearest("emit", keys), Some("emits"));
        assert_eq!(nearest("agnet", keys), Some("agent"));
        assert_eq!(nearest("Agent", keys), Some("agent"));
        assert_eq!(nearest("description", keys), None);
    }

    #[test]
    fn several_names_are_near() {
        let names = [
            "A.Issue",
            "A.IssueCreated",
            "A.IssueResolved",
            "A.Push",
            "A.Fork",
        ];
        let near = |name| few(name, 2, names.into_iter());
        assert_eq!(
            near("A.IssueCreate"),
            ["A.IssueCreated", "A.Issue", "A.IssueResolved"]
        );
        assert_eq!(near("A.Pushed"), ["A.Push"]);
        assert_eq!(near("A.Deploy"), [""; 0]);
        let asked = |names: &[&str]| did_you_mean_one(names);
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&["A"]).as_deref(), Some("did you mean `A`?"));
        let three = asked(&["A", "B", "C"]);
        assert_eq!(three.as_deref(), Some("did you mean `A`, `B` or `C`?"));
    }
}
