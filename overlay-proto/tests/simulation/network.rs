//! One link at a time between two hosts: ordered frames, and data streams beside them.

use std::collections::VecDeque;

use bytes::BytesMut;
use overlay_proto::{Frame, StreamHeader};

#[derive(Debug)]
pub struct Stream {
    pub header: StreamHeader,
    pub bytes: VecDeque<u8>,
    /// The sender gave it up: nothing more comes.
    pub abandoned: bool,
}

/// What goes to one side.
#[derive(Debug, Default)]
pub struct Lane {
    pub frames: VecDeque<BytesMut>,
    /// In the order opened; a stream may overtake frames and other streams.
    pub streams: Vec<Stream>,
}

impl Lane {
    pub fn put(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        overlay_proto::encode(frame, &mut bytes);
        self.frames.push_back(bytes);
    }

    pub fn take(&mut self) -> Option<Frame> {
        let mut bytes = self.frames.pop_front()?;
        let frame = overlay_proto::decode(&mut bytes).expect("frames made here can be read");
        assert!(bytes.is_empty());
        frame
    }
}

#[derive(Debug)]
pub struct Link {
    pub id: u64,
    /// Host at each end.
    pub hosts: [u64; 2],
    /// Broken: nothing new goes in, what is in may still come out.
    pub broken: bool,
    /// Towards each side.
    pub lanes: [Lane; 2],
}

impl Link {
    pub fn new(id: u64, hosts: [u64; 2]) -> Link {
        Link { id, hosts, broken: false, lanes: [Lane::default(), Lane::default()] }
    }
}
