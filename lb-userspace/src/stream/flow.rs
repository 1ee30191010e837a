//! What a worker knows of a connection: its target, when it last moved, whether it is to end.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::group::{InUse, Target};

/// One connection, shared by its task and its worker.
pub(super) struct Flow {
    /// Where the client connected to.
    pub(super) listener: SocketAddr,
    target: RefCell<Option<InUse>>,
    moved: Cell<Instant>,
    is_over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The connections of one worker.
#[derive(Default)]
pub(super) struct Flows {
    open: RefCell<HashMap<u64, Rc<Flow>>>,
    next: Cell<u64>,
}

/// A connection on its worker's list, until this is dropped.
pub(super) struct Listed {
    flows: Rc<Flows>,
    number: u64,
    /// The connection.
    pub(super) flow: Rc<Flow>,
}

impl Flows {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Puts a new one on the list.
    pub(super) fn begin(self: &Rc<Self>, listener: SocketAddr) -> Listed {
        let number = self.next.get();
        self.next.set(number + 1);
        let flow = Rc::new(Flow {
            listener,
            target: RefCell::default(),
            moved: Cell::new(Instant::now()),
            is_over: Cell::new(false),
            waker: RefCell::default(),
        });
        self.open.borrow_mut().insert(number, flow.clone());
        Listed { flows: self.clone(), number, flow }
    }

    /// Ends those to any of these targets.
    pub(super) fn end_to(&self, targets: &[Arc<Target>]) {
        if targets.is_empty() {
            return;
        }
        self.end(|flow| {
            let target = flow.target.borrow();
            target.as_ref().is_some_and(|own| targets.contains(own.target()))
        });
    }

    /// Ends those that came to an address that is none of these.
    pub(super) fn end_elsewhere(&self, is_open: impl Fn(&SocketAddr) -> bool) {
        self.end(|flow| !is_open(&flow.listener));
    }

    fn end(&self, which: impl Fn(&Flow) -> bool) {
        for flow in self.open.borrow().values().filter(|flow| which(flow)) {
            flow.is_over.set(true);
            if let Some(waker) = flow.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.flows.open.borrow_mut().remove(&self.number);
    }
}

impl Flow {
    /// Goes to this target; one that was tried before has it no longer.
    pub(super) fn to(&self, target: Arc<Target>) {
        self.target.replace(Some(InUse::begin(target)));
    }

    /// The target.
    pub(super) fn target(&self) -> Option<Arc<Target>> {
        self.target.borrow().as_ref().map(|own| own.target().clone())
    }

    /// Bytes moved.
    pub(super) fn touch(&self) {
        self.moved.set(Instant::now());
    }

    /// When bytes last moved.
    pub(super) fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// Whether its worker wants it to end; wakes the task once it does.
    pub(super) fn is_over(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(own) => own.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.is_over.get()
    }

    /// Waits until its worker wants it to end.
    pub(super) async fn over(&self) {
        poll_fn(|cx| if self.is_over(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}
