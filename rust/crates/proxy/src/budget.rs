//! Budgets: bytes of a rule, and of each source of it, in an hour, a day or a month; over all workers, policies and restarts.

mod account;
mod books;
mod keeper;
mod report;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use egress_policy::{Budget, Identity, Snapshot, Then};
use egress_shape::Ceiling;

use self::account::{Account, locked};
use self::books::{Book, Books, Crowded, bytes, key};
pub(crate) use self::keeper::Keeper;
use self::keeper::{Order, Slowed};
pub(crate) use self::report::{BudgetReport, StoreReport};
use crate::shape::Plans;

/// A rule with a budget, in one policy.
#[derive(Debug)]
pub(crate) struct Budgeted {
    books: Arc<Books>,
    book: Arc<Book>,
    budget: Budget,
    audit: bool,
}

/// The budgets of one policy, by rule.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    by_rule: HashMap<u32, Budgeted>,
}

impl Budgets {
    /// From now on what `snapshot` says holds for all accounts.
    pub(crate) fn new(snapshot: &Snapshot, plans: &Arc<Plans>, books: Option<&Arc<Books>>) -> Self {
        let Some(books) = books else { return Self::default() };
        let mut named = Vec::new();
        let mut places = Vec::new();
        for (id, budget) in snapshot.budgets() {
            if let Some(rule) = snapshot.rule(id).filter(|rule| !rule.deny) {
                named.push((rule.name, *budget, rule.audit));
                places.push((id, rule.name, *budget, rule.audit));
            }
        }
        let bound = books.bind(&named);
        let mut by_rule = HashMap::new();
        let mut slowed = Vec::new();
        for (id, name, budget, audit) in places {
            let Some(book) = bound.get(name).map(Arc::clone) else { continue };
            if let (Then::Slow(bits), Some(class), false) =
                (budget.then, snapshot.class_of(id), audit)
            {
                let (account, plans) = (Arc::clone(&book.all), Arc::clone(plans));
                slowed.push(Slowed { account, plans, class, rate: bytes(bits) });
            }
            by_rule.insert(id.0, Budgeted { books: Arc::clone(books), book, budget, audit });
        }
        // Before the first byte goes by the new policy.
        slowed.iter().for_each(Slowed::act);
        *locked(&books.slowed) = slowed;
        let _ = books.desk.keeper.try_send(Order::Look);
        Self { by_rule }
    }

    /// All of them as they stand, in the order of the policy.
    pub(crate) fn report<'a>(&'a self) -> Vec<BudgetReport<'a>> {
        let mut rules: Vec<_> = self.by_rule.iter().collect();
        rules.sort_unstable_by_key(|(rule, _)| **rule);
        let told = |(_, one): (&u32, &'a Budgeted)| {
            report::report(&one.book.all.rule, (&one.budget, one.audit), &one.book, &one.books)
        };
        rules.into_iter().map(told).collect()
    }

    pub(crate) fn of_rule(&self, rule: u32) -> Option<&Budgeted> {
        if self.by_rule.is_empty() { None } else { self.by_rule.get(&rule) }
    }
}

impl Budgeted {
    /// What a flow of this source spends from.
    pub(crate) fn open(&self, ip: IpAddr, identity: Option<&Identity>) -> Spending {
        let all = (!self.budget.all.is_none()).then(|| Arc::clone(&self.book.all));
        let own =
            (!self.budget.each.is_none()).then(|| self.books.source(&self.book, key(ip, identity)));
        let then = self.budget.then;
        match own.transpose() {
            Ok(own) => Spending { all, own, crowded: false, then, counted: [0; 2] },
            Err(Crowded) => Spending { all, own: None, crowded: true, then, counted: [0; 2] },
        }
    }
}

/// Why a flow is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    /// The rule's budget, or the source's own, is used up.
    All,
    Own,
    /// No more sources can be counted.
    Crowded,
}

/// What a flow spends from, and what it has told of the bytes that it has moved.
#[derive(Debug)]
pub(crate) struct Spending {
    all: Option<Arc<Account>>,
    own: Option<Arc<Account>>,
    crowded: bool,
    then: Then,
    /// Bytes up and down of the flow that are counted.
    counted: [u64; 2],
}

impl Spending {
    /// Counts what the flow has moved since it last told.
    pub(crate) fn count(&mut self, (up, down): (u64, u64)) {
        let new = [up.saturating_sub(self.counted[0]), down.saturating_sub(self.counted[1])];
        self.counted = [up, down];
        for account in [&self.all, &self.own].into_iter().flatten() {
            account.add(new);
        }
    }

    /// What the flow has moved before is not its.
    pub(crate) fn not_counting(self, (up, down): (u64, u64)) -> Self {
        Self { counted: [up, down], ..self }
    }

    /// Whether new flows are refused, and open ones end.
    pub(crate) fn denies(&self) -> bool {
        let spent =
            |account: &Option<Arc<Account>>| account.as_ref().is_some_and(|one| one.is_spent());
        self.then == Then::Deny && (spent(&self.all) || spent(&self.own))
    }

    /// What keeps a new flow out.
    pub(crate) fn keeps_out(&self) -> Option<Spent> {
        // What is only said needs no account.
        if self.crowded && self.then != Then::Alert {
            return Some(Spent::Crowded);
        }
        let own = self.own.as_ref().is_some_and(|account| account.is_spent());
        self.denies().then_some(if own { Spent::Own } else { Spent::All })
    }

    /// What bounds its source by itself, up and down.
    pub(crate) fn ceilings(&self) -> Option<&[Arc<Ceiling>; 2]> {
        if !matches!(self.then, Then::Slow(_)) {
            return None;
        }
        self.own.as_ref()?.ceilings.as_ref()
    }
}
