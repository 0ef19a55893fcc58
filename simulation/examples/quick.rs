//! temporary
#![allow(clippy::print_stdout, clippy::unwrap_used)]
use loopy_simulation::{Story, check, play};
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (from, n) = (a[0], a[1]);
    if n == 0 { for l in play(&Story::of(from), true).trace { println!("{l}"); } return; }
    let max = a.get(2).copied().unwrap_or(1);
    let t = std::time::Instant::now();
    let mut polls = 0; let mut bad = 0; let mut storm=0;
    let mut by: std::collections::BTreeMap<String, u64> = Default::default();
    for seed in from..from+n {
        let o = play(&Story::of(seed), false);
        polls += o.polls; storm+=o.storm;
        for r in o.runs { *by.entry(r).or_default() += 1; }
        if let Some(law) = o.broken { bad += 1; if max > 1 { println!("{seed}: {law}"); } else { println!("{}", check(seed).unwrap()); } if bad >= max { break; } }
    }
    println!("{n} seeds, {bad} bad, {polls} polls, {storm} storm, {:?}, {by:?}", t.elapsed());
}
