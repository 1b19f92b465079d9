//! What people are told of budgets.

use egress_policy::{Allowance, Allowances, Budget, Period, Then};
use serde::Serialize;

use super::account::{Account, locked};
use super::books::{Book, Books};

/// A rule's budget as it stands.
#[derive(Debug, Serialize)]
pub(crate) struct BudgetReport<'a> {
    rule: &'a str,
    then: Then,
    /// What is spent is only recorded.
    audit: bool,
    up: Option<Used>,
    down: Option<Used>,
    sources: Option<Sources>,
}

/// Of one direction, in the present period.
#[derive(Debug, Serialize)]
struct Used {
    used: u64,
    limit: u64,
    per: Period,
    /// In seconds of Unix time.
    ends: u64,
    over: bool,
}

#[derive(Debug, Serialize)]
struct Sources {
    up: Option<Allowance>,
    down: Option<Allowance>,
    counted: usize,
    /// Of which the own budget is spent.
    over: usize,
}

/// The file in which it is kept what is used.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StoreReport {
    pub path: String,
    /// The last time that it was written, that failed.
    pub failing: bool,
    pub failures: u64,
}

pub(super) fn report<'a>(
    rule: &'a str,
    (budget, audit): (&Budget, bool),
    book: &Book,
    books: &Books,
) -> BudgetReport<'a> {
    let used = |way: usize| of_account(&book.all, way, books);
    let Allowances { up, down } = budget.each;
    let sources = (!budget.each.is_none()).then(|| {
        let (mut counted, mut over) = (0, 0);
        for account in book.sources() {
            counted += 1;
            over += usize::from(account.is_spent());
        }
        Sources { up, down, counted, over }
    });
    BudgetReport { rule, then: budget.then, audit, up: used(0), down: used(1), sources }
}

fn of_account(account: &Account, way: usize, books: &Books) -> Option<Used> {
    let (used, limit, ledger) = account.state(way)?;
    let (_, ends) = locked(&books.zone).bounds(ledger.period, ledger.begin);
    Some(Used { used, limit, per: ledger.period, ends, over: used >= limit })
}
