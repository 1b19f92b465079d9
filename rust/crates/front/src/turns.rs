//! Few at a time, on one thread: work that goes on in long steps, and waits for the network between them.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Does the work, each step of it in a turn. A turn lasts until all other tasks have had theirs; none is held while the
/// work waits, so that those who are slow on purpose keep nobody from going on.
pub(crate) async fn in_turns<F: Future>(turns: &Semaphore, work: F) -> F::Output {
    let mut work = pin!(work);
    loop {
        // Never closed.
        let turn = turns.acquire().await;
        yield_now().await;
        let step = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        drop(turn);
        if let Poll::Ready(done) = step {
            return done;
        }
        // Nothing may be awaited between that step and this: it would take the step's wake-up for its own.
        woken().await;
    }
}

/// Comes back when the task is woken, by whatever it is that its last step waits for.
async fn woken() {
    let mut waiting = false;
    poll_fn(|_| {
        let woken = std::mem::replace(&mut waiting, true);
        if woken { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::runtime::Builder;
    use tokio::sync::Notify;
    use tokio::task::LocalSet;

    use super::*;

    fn on_one_thread(test: impl Future<Output = ()>) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn those_who_wait_hold_up_nobody_and_go_on_when_they_can() {
        on_one_thread(async {
            let turns = Rc::new(Semaphore::new(2));
            let go = Rc::new(Notify::new());
            let slow: Vec<_> = (0..10)
                .map(|_| {
                    let (turns, go) = (Rc::clone(&turns), Rc::clone(&go));
                    tokio::task::spawn_local(async move { in_turns(&turns, go.notified()).await })
                })
                .collect();
            for _ in 0..50 {
                yield_now().await;
            }
            in_turns(&turns, async {}).await;
            assert!(slow.iter().all(|task| !task.is_finished()));
            go.notify_waiters();
            for task in slow {
                task.await.unwrap();
            }
        });
    }

    #[test]
    fn no_more_steps_are_taken_at_once_than_there_are_turns() {
        on_one_thread(async {
            let turns = Rc::new(Semaphore::new(2));
            let steps = Rc::new(Cell::new(0));
            for _ in 0..20 {
                let (turns, steps) = (Rc::clone(&turns), Rc::clone(&steps));
                tokio::task::spawn_local(async move {
                    in_turns(&turns, async { steps.set(steps.get() + 1) }).await;
                });
            }
            let mut before = 0;
            for _ in 0..100 {
                yield_now().await;
                assert!(steps.get() <= before + 2, "{} after {before}", steps.get());
                before = steps.get();
            }
            assert_eq!(before, 20);
        });
    }
}
