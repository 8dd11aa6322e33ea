//! What a broker of our own has on its disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use super::Kafka;

impl Kafka {
    /// The segments on the disk of a broker, in the order of their names, also those that are about to
    /// go: what is still there, whatever a consumer sees.
    ///
    /// # Errors
    /// For a broker that is not ours.
    pub fn segments(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let (data, mut found) = (self.own()?.dir.join("data"), Vec::new());
        for folder in fs::read_dir(data)? {
            let folder = folder?.path();
            if folder.is_dir() {
                read_segments(&folder, &mut found)?;
            }
        }
        found.sort();
        Ok(found)
    }

    /// Changes the last batch of a partition on the disk of a broker that is stopped.
    ///
    /// # Errors
    /// For a broker that is not ours, or a partition without records.
    pub fn edit_last_batch(
        &self,
        topic: &str,
        partition: i32,
        edit: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        let folder = self.own()?.dir.join(format!("data/{topic}-{partition}"));
        let segment = folder.join("00000000000000000000.log");
        let mut bytes = fs::read(&segment)?;
        // Each batch begins with its first offset and the length of the rest.
        let (mut last, mut next) = (0, 0);
        while let Some(length) = bytes[next..].get(8..12) {
            last = next;
            next += 12 + u32::from_be_bytes(length.try_into()?) as usize;
        }
        ensure!(next > 0, "nothing in {}", segment.display());
        edit(&mut bytes[last..next]);
        Ok(fs::write(&segment, bytes)?)
    }
}

/// Segments go at any moment, and folders with them.
fn read_segments(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) -> io::Result<()> {
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(folder) {
        Err(error) if is_gone(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if !path.to_string_lossy().contains(".log") {
            continue;
        }
        match fs::read(&path) {
            Err(error) if is_gone(&error) => {}
            bytes => found.push((path, bytes?)),
        }
    }
    Ok(())
}
