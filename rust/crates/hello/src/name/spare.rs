//! The memory of names that were dropped, kept for the next ones: every connection names a destination, and none should
//! have to ask the allocator for it.

use std::cell::RefCell;

use super::MAX_NAME;

/// Names that a thread keeps the memory of: as many connections as end before others begin.
const KEPT: usize = 1024;

thread_local! {
    static SPARE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// An empty string.
pub(super) fn take() -> String {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// Takes back the memory of a name; of a thread that ends, it is freed.
pub(super) fn keep(mut text: String) {
    if !(1..=2 * MAX_NAME).contains(&text.capacity()) {
        return;
    }
    text.clear();
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(text);
        }
    });
}
