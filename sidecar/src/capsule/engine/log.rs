//! The program's output, as the shim keeps it.

use crate::capsule::Capsule;

/// Output in the log so far, in bytes.
pub(crate) fn log_bytes(capsule: &Capsule) -> u64 {
    read_log(capsule, u64::MAX).map_or(0, |(_, end)| end)
}

/// One piece of output: whether it is standard error, and the bytes.
pub(crate) type Chunk = (bool, Vec<u8>);

/// The output after a position (bytes of output since the log began), and the position after that.
pub(crate) fn read_log(capsule: &Capsule, position: u64) -> anyhow::Result<(Vec<Chunk>, u64)> {
    let mut reader = shim::log::Reader::open(capsule.engine.dir.path())?;
    let (mut at, mut bytes, mut chunks) = (0_u64, 0, Vec::new());
    while bytes < admin_api::limits::GROUP_BYTES_MAX / 2 {
        let Some(mut chunk) = reader.next_chunk()? else { break };
        let end = at + chunk.bytes.len() as u64;
        if end > position {
            let skip = usize::try_from(position.saturating_sub(at)).unwrap_or(usize::MAX);
            let rest = chunk.bytes.split_off(skip);
            bytes += rest.len();
            chunks.push((chunk.stream == shim::log::Stream::Err, rest));
        }
        at = end;
    }
    Ok((chunks, at))
}
