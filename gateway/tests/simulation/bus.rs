//! The bus as one node reaches it: acknowledgements come late or never, and a node that sleeps too
//! long loses its partitions.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use gateway::bus::{
    BusEvent, Consumer, ConsumerControl, Lag, OnDelivery, Outgoing, ProduceError, Producer, Sink,
    Trouble,
    memory::{MemoryConsumer, MemoryProducer},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{defect::Defect, net::Wires};

/// A member of a group that is silent for so long is given up.
const GROUP_PATIENCE: Duration = Duration::from_secs(3);
/// The pause between two looks at what is on its way.
const TICK: Duration = Duration::from_millis(5);

/// A node's producer.
pub(crate) struct Writer {
    wires: Wires,
    inner: Arc<MemoryProducer>,
    /// One handle for each record that is on its way, and this one.
    on_the_way: Arc<()>,
}

impl Writer {
    pub(crate) fn new(wires: Wires) -> Self {
        let inner = Arc::new(wires.world.bus.producer());
        Self { wires, inner, on_the_way: Arc::default() }
    }
}

#[async_trait]
impl Producer for Writer {
    fn produce(&self, record: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError> {
        let (Wires { world, life }, inner) = (self.wires.clone(), Arc::clone(&self.inner));
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let (topic, key, value) = (record.topic.to_owned(), owned(record.key), owned(record.value));
        let partition = record.partition;
        let headers: Vec<(String, Vec<u8>)> =
            record.headers.iter().map(|(name, value)| ((*name).into(), value.to_vec())).collect();
        let is_lost = world.is_shaky() && world.chance(1);
        let on_the_way = Arc::clone(&self.on_the_way);
        self.wires.world.spawn(async move {
            let _until_told = on_the_way;
            world.sleep(0, 10).await;
            if life.dead.is_cancelled() {
                return;
            }
            let tell = async move |result| {
                world.sleep(0, 20).await;
                life.awake().await;
                if !life.dead.is_cancelled() {
                    on_delivery.done(result);
                }
            };
            if is_lost {
                return tell(Err(ProduceError::Unconfirmed("simulated".to_owned()))).await;
            }
            let headers: Vec<(&str, &[u8])> =
                headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            let (written, result) = tokio::sync::oneshot::channel();
            let record = Outgoing {
                topic: &topic,
                partition,
                key: key.as_deref(),
                key_suffix_bytes: 0,
                value: value.as_deref(),
                headers: &headers,
            };
            let on_written = Box::new(move |result| drop(written.send(result)));
            let taken = inner.produce(&record, on_written);
            match taken {
                Err(error) => tell(Err(error)).await,
                Ok(()) => {
                    if let Ok(result) = result.await {
                        tell(result).await;
                    }
                }
            }
        });
        Ok(())
    }

    fn is_available(&self) -> bool {
        self.inner.is_available()
    }

    fn outstanding(&self) -> usize {
        Arc::strong_count(&self.on_the_way) - 1
    }

    async fn flush(&self, within: Duration) {
        let told = async {
            while self.outstanding() > 0 {
                sleep(TICK).await;
            }
        };
        drop(timeout(within, told).await);
    }
}

/// A node's consumer of replies.
pub(crate) struct Reader {
    wires: Wires,
    seat: Arc<Seat>,
    inner: Option<MemoryConsumer>,
    owned: Vec<i32>,
    /// Since when its node sleeps. A call for events gives up soon and is made again, so it cannot
    /// remember that itself.
    silent_since: Option<Instant>,
}

/// What stays the same while the member of the group behind it changes.
struct Seat {
    wires: Wires,
    member: Mutex<Arc<dyn ConsumerControl>>,
}

impl Reader {
    pub(crate) fn new(wires: Wires) -> Self {
        let inner = wires.world.bus.consumer("roundtrip", "replies");
        let member = Mutex::new(inner.control());
        let seat = Arc::new(Seat { wires: wires.clone(), member });
        Self { wires, seat, inner: Some(inner), owned: Vec::new(), silent_since: None }
    }

    /// A member that was given up finds out, and joins anew.
    fn join_again(&mut self, sink: &mut Sink<'_>) {
        let partitions = std::mem::take(&mut self.owned);
        if !partitions.is_empty() {
            sink(BusEvent::Revoked { partitions: &partitions, lost: true });
        }
        let inner = self.wires.world.bus.consumer("roundtrip", "replies");
        *self.seat.member.lock().unwrap() = inner.control();
        self.inner = Some(inner);
    }
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self, max: usize, sink: &mut Sink<'_>) {
        loop {
            let given_up_at = *self.silent_since.get_or_insert_with(Instant::now) + GROUP_PATIENCE;
            if timeout_at(given_up_at, self.wires.life.awake()).await.is_err() {
                self.inner = None;
                self.wires.life.awake().await;
            }
            self.silent_since = None;
            let Some(inner) = &mut self.inner else { return self.join_again(sink) };
            let (owned, seat) = (&mut self.owned, &self.seat);
            let node = seat.wires.life.index;
            let mut watched = |event: BusEvent<'_>| {
                match event {
                    BusEvent::Assigned(partitions) => {
                        tracing::debug!(node, ?partitions, "assigned");
                        owned.extend(partitions);
                    }
                    BusEvent::Revoked { partitions, .. } => {
                        owned.retain(|partition| !partitions.contains(partition));
                    }
                    BusEvent::Rewound(_) | BusEvent::Ended(_) | BusEvent::Unreadable(_) => {}
                    BusEvent::Record(record) => {
                        let (partition, offset) = (record.partition, record.offset);
                        tracing::trace!(node, partition, offset, "read");
                        if seat.wires.world.defect == Defect::EarlyOffsets {
                            seat.store(record.partition, record.offset + 1);
                        }
                    }
                }
                sink(event);
            };
            tokio::select! {
                biased;
                () = self.wires.life.asleep() => {}
                () = inner.next(max, &mut watched) => return,
            }
        }
    }

    fn control(&self) -> Arc<dyn ConsumerControl> {
        Arc::clone(&self.seat) as _
    }

    async fn close(self: Box<Self>, within: Duration) {
        if let Some(inner) = self.inner {
            Box::new(inner).close(within).await;
        }
    }
}

impl Seat {
    fn member(&self) -> Arc<dyn ConsumerControl> {
        Arc::clone(&*self.member.lock().unwrap())
    }
}

impl ConsumerControl for Seat {
    fn store(&self, partition: i32, offset: i64) {
        self.wires.world.book.stored(partition, offset);
        self.member().store(partition, offset);
    }

    fn pause(&self, partition: i32) {
        self.member().pause(partition);
    }

    fn resume(&self, partition: i32) {
        self.member().resume(partition);
    }

    fn rewind(&self, _: i32) -> bool {
        false
    }

    fn topic_id(&self) -> Option<String> {
        None
    }

    fn partition_count(&self) -> Option<i32> {
        self.member().partition_count()
    }

    fn lag(&self) -> Vec<Lag> {
        self.member().lag()
    }

    fn troubles(&self) -> Vec<Trouble> {
        self.member().troubles()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}
