use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

const JOB: JobId = JobId(1);
const T1: BatchTime = BatchTime(1000);
const T2: BatchTime = BatchTime(2000);
const CREDIT: Poll<Result<Permit, Closed>> = Poll::Ready(Ok(Permit { oldest: false }));
const OLDEST: Poll<Result<Permit, Closed>> = Poll::Ready(Ok(Permit { oldest: true }));

fn open(credit: u64) -> CreditWindow {
    let window = CreditWindow::new();
    window.connected(credit, 0);
    window.set_oldest(JOB, T1);
    window
}

fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

macro_rules! acquire {
    ($window:expr, $batch:expr, $bytes:expr) => {
        pin!($window.acquire(JOB, $batch, $bytes))
    };
}

#[test]
fn later_batches_wait_for_credit_and_the_oldest_does_not() {
    let window = open(100);
    assert_eq!(poll(&mut acquire!(window, T2, 80)), CREDIT);
    let mut later = acquire!(window, T2, 30);
    assert_eq!(poll(&mut later), Poll::Pending);
    assert_eq!(poll(&mut acquire!(window, T1, 1_000_000)), OLDEST);
    window.grant(10);
    assert_eq!(poll(&mut later), CREDIT);
}

#[test]
fn a_batch_that_becomes_the_oldest_goes_without_credit() {
    let window = open(100);
    assert_eq!(poll(&mut acquire!(window, T2, 100)), CREDIT);
    let mut waiting = acquire!(window, T2, 50);
    assert_eq!(poll(&mut waiting), Poll::Pending);
    window.set_oldest(JobId(2), T2);
    assert_eq!(poll(&mut waiting), Poll::Pending, "another job");
    window.set_oldest(JOB, T2);
    assert_eq!(poll(&mut waiting), OLDEST);
    window.set_oldest(JOB, T1);
    assert_eq!(poll(&mut acquire!(window, T2, 50)), OLDEST, "time does not go back");
}

#[test]
fn credit_goes_in_the_order_of_asking() {
    let window = open(100);
    assert_eq!(poll(&mut acquire!(window, T2, 100)), CREDIT);
    let mut large = acquire!(window, T2, 90);
    let mut small = acquire!(window, T2, 10);
    assert_eq!((poll(&mut large), poll(&mut small)), (Poll::Pending, Poll::Pending));
    window.grant(50);
    assert_eq!((poll(&mut large), poll(&mut small)), (Poll::Pending, Poll::Pending));
    window.grant(50);
    assert_eq!((poll(&mut large), poll(&mut small)), (CREDIT, CREDIT));
}

#[test]
fn a_frame_above_the_window_goes_when_the_window_is_unused() {
    let window = open(100);
    assert_eq!(poll(&mut acquire!(window, T2, 10)), CREDIT);
    let mut huge = acquire!(window, T2, 500);
    assert_eq!(poll(&mut huge), Poll::Pending);
    window.grant(10);
    assert_eq!(poll(&mut huge), CREDIT);
    let mut next = acquire!(window, T2, 1);
    assert_eq!(poll(&mut next), Poll::Pending);
    window.grant(500);
    assert_eq!(poll(&mut next), CREDIT);
}

#[test]
fn a_dropped_wait_uses_no_credit_and_lets_others_pass() {
    let window = open(100);
    assert_eq!(poll(&mut acquire!(window, T2, 100)), CREDIT);
    let mut behind = Box::pin(window.acquire(JOB, T2, 20));
    {
        let mut dropped = Box::pin(window.acquire(JOB, T2, 90));
        assert_eq!(poll(&mut behind.as_mut()), Poll::Pending);
        assert_eq!(poll(&mut dropped.as_mut()), Poll::Pending);
        window.grant(20);
    }
    assert_eq!(poll(&mut behind.as_mut()), CREDIT);
    assert_eq!(window.waiting(), 0);

    // Answered, but dropped before it was seen.
    let mut unseen = Box::pin(window.acquire(JOB, T2, 60));
    assert_eq!(poll(&mut unseen.as_mut()), Poll::Pending);
    window.grant(60);
    drop(unseen);
    assert_eq!(poll(&mut acquire!(window, T2, 60)), CREDIT);
}

#[test]
fn nothing_goes_without_a_connection_and_a_new_one_counts_what_is_repeated() {
    let window = CreditWindow::new();
    window.set_oldest(JOB, T1);
    let mut oldest = acquire!(window, T1, 1);
    let mut later = acquire!(window, T2, 60);
    assert_eq!((poll(&mut oldest), poll(&mut later)), (Poll::Pending, Poll::Pending));
    window.connected(100, 50);
    assert_eq!((poll(&mut oldest), poll(&mut later)), (OLDEST, Poll::Pending));
    window.grant(50);
    assert_eq!(poll(&mut later), CREDIT);
    window.disconnected();
    assert_eq!(poll(&mut acquire!(window, T1, 1)), Poll::Pending);
}

#[test]
fn waiting_for_a_lost_peer_or_a_removed_job_ends() {
    let window = open(0);
    assert_eq!(poll(&mut acquire!(window, T2, 1)), CREDIT, "nothing is in use yet");
    let mut other = pin!(window.acquire(JobId(2), T2, 1));
    let mut removed = acquire!(window, T2, 1);
    assert_eq!((poll(&mut other), poll(&mut removed)), (Poll::Pending, Poll::Pending));
    window.forget_job(JOB);
    assert_eq!(
        (poll(&mut other), poll(&mut removed)),
        (Poll::Pending, Poll::Ready(Err(Closed)))
    );
    window.close();
    assert_eq!(poll(&mut other), Poll::Ready(Err(Closed)));
    assert_eq!(poll(&mut acquire!(window, T1, 1)), Poll::Ready(Err(Closed)));
}
