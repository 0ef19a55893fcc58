//! Does the same work on many items, on all processors.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread::{self, Builder};

/// With more threads than this, what cannot be spread takes most of the time.
const MAX_THREADS: usize = 8;

/// With fewer items, a thread costs more than it gains.
const MIN_ITEMS: usize = 64;

/// What `work` makes of each item, in the order of the items.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(MAX_THREADS).min(items.len() / MIN_ITEMS);
    let all = |items: &[T]| items.iter().map(&work).collect::<Vec<R>>();
    if threads < 2 {
        return all(items);
    }
    let size = items.len().div_ceil(threads);
    let (first, rest) = items.split_at(size);
    thread::scope(|scope| {
        let chunks: Vec<_> = rest
            .chunks(size)
            .map(|chunk| {
                let thread = Builder::new().spawn_scoped(scope, move || all(chunk));
                (chunk, thread)
            })
            .collect();
        let mut results = all(first);
        results.reserve_exact(rest.len());
        for (chunk, thread) in chunks {
            results.extend(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No more threads are to be had.
                Err(_) => all(chunk),
            });
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for count in [0, 1, MIN_ITEMS * 2 - 1, MIN_ITEMS * 2, 1000, 1001] {
            let items: Vec<usize> = (0..count).collect();
            let expected: Vec<usize> = (0..count).map(|item| item * 2).collect();
            assert_eq!(map(&items, |item| item * 2), expected, "{count}");
        }
    }
}
