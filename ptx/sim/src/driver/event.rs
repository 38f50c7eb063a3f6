//! Events.

use std::ffi::{c_float, c_uint};
use std::time::Instant;

use super::execute::Operation;
use super::{Driver, Handle, Outcome, Status, api, put};

/// An event.
pub struct Event {
    pub context: usize,
    /// Where it was last recorded: stream and number of the work.
    recorded: Option<(usize, u64)>,
    /// The capture and stream in which it was last recorded.
    pub captured: Option<(usize, usize)>,
    /// When the recording was reached.
    reached: Option<Instant>,
    timing: bool,
}

impl Driver {
    fn event(&mut self, handle: Handle) -> Outcome<&mut Event> {
        self.require_init()?;
        let context = self.events.get(&(handle as usize)).ok_or(Status::INVALID_HANDLE)?.context;
        self.check_context(context)?;
        Ok(self.events.get_mut(&(handle as usize)).expect("just seen"))
    }

    /// The stream, if the event may be recorded in it: both must be of one context.
    fn recordable(&mut self, event: Handle, stream: Handle) -> Outcome<usize> {
        let context = self.event(event)?.context;
        let stream = self.stream(stream)?;
        if self.streams[&stream].context == context { Ok(stream) } else { Err(Status::INVALID_HANDLE) }
    }

    /// The stream has come to the recording.
    pub fn event_reached(&mut self, event: usize) {
        if let Some(event) = self.events.get_mut(&event) {
            event.reached = Some(Instant::now());
        }
    }

    /// Makes a stream wait for an event's last recording.
    pub fn wait_event(&mut self, stream: usize, event: usize) -> Outcome {
        self.event(event as Handle)?;
        let event = &self.events[&event];
        if let Some((capture, from)) = event.captured {
            return self.join_capture(stream, capture, from);
        }
        let Some((from, sequence)) = event.recorded else { return Ok(()) };
        if self.streams[&stream].capture.is_some() {
            return self.fail_capture_of(stream, Status::STREAM_CAPTURE_ISOLATION);
        }
        self.submit(stream, Operation::Wait { stream: from, sequence }).map(drop)
    }

    fn is_reached(&self, recorded: Option<(usize, u64)>) -> bool {
        recorded
            .is_none_or(|(stream, sequence)| self.streams.get(&stream).is_none_or(|s| s.is_done(sequence)))
    }
}

api! {
    fn cuEventCreate(d, into: *mut Handle, flags: c_uint) {
        let context = d.current()?;
        let handle = d.new_handle();
        let timing = flags & 2 == 0;
        d.events.insert(handle, Event { context, recorded: None, captured: None, reached: None, timing });
        put(into, handle as Handle)
    }

    fn cuEventDestroy_v2(d, event: Handle) {
        d.require_init()?;
        d.events.remove(&(event as usize)).map(drop).ok_or(Status::INVALID_HANDLE)
    }

    fn cuEventRecord(d, event: Handle, stream: Handle) {
        let stream = d.recordable(event, stream)?;
        let handle = event as usize;
        if let Some(capture) = d.streams[&stream].capture {
            d.check_capture(capture)?;
            d.event(event)?.captured = Some((capture, stream));
            return Ok(());
        }
        let sequence = d.submit(stream, Operation::Record { event: handle })?;
        let event = d.events.get_mut(&handle).expect("just seen");
        event.recorded = Some((stream, sequence));
        event.captured = None;
        Ok(())
    }

    fn cuEventRecordWithFlags(d, event: Handle, stream: Handle, _flags: c_uint) {
        let stream = d.recordable(event, stream)?;
        if d.streams[&stream].capture.is_some() {
            return Err(Status::NOT_SUPPORTED);
        }
        let sequence = d.submit(stream, Operation::Record { event: event as usize })?;
        d.event(event)?.recorded = Some((stream, sequence));
        Ok(())
    }

    fn cuEventSynchronize(d, event: Handle) {
        d.counters().synchronizations += 1;
        let event = d.event(event)?;
        if let Some((capture, _)) = event.captured {
            return d.fail_capture(capture, Status::CAPTURED_EVENT);
        }
        match event.recorded {
            Some((stream, sequence)) => d.finish_work(stream, sequence),
            None => Ok(()),
        }
    }

    fn cuEventQuery(d, event: Handle) {
        let event = d.event(event)?;
        if let Some((capture, _)) = event.captured {
            return d.fail_capture(capture, Status::CAPTURED_EVENT);
        }
        let recorded = event.recorded;
        if d.is_reached(recorded) {
            return Ok(());
        }
        if let Some((stream, sequence)) = recorded {
            d.finish_work(stream, sequence)?; // a program that polls gets on
        }
        Err(Status::NOT_READY)
    }

    fn cuEventElapsedTime(d, into: *mut c_float, start: Handle, end: Handle) {
        elapsed(d, into, start, end)
    }

    fn cuEventElapsedTime_v2(d, into: *mut c_float, start: Handle, end: Handle) {
        elapsed(d, into, start, end)
    }
}

fn elapsed(d: &mut Driver, into: *mut c_float, start: Handle, end: Handle) -> Outcome {
    let mut times = [None; 2];
    for (time, handle) in times.iter_mut().zip([start, end]) {
        let event = d.event(handle)?;
        if !event.timing || event.recorded.is_none() {
            return Err(Status::INVALID_HANDLE);
        }
        let (recorded, reached) = (event.recorded, event.reached);
        if !d.is_reached(recorded) {
            return Err(Status::NOT_READY);
        }
        *time = reached;
    }
    let [Some(start), Some(end)] = times else { return Err(Status::INVALID_HANDLE) };
    let between =
        end.checked_duration_since(start).map_or_else(|| -(start - end).as_secs_f32(), |t| t.as_secs_f32());
    unsafe { put(into, between * 1e3) }
}
