//! The file behind the disk.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub(crate) struct Image {
    pub(crate) file: File,
    path: PathBuf,
    bytes: u64,
    /// The sectors that the disk has: the last one may reach past the file.
    pub(crate) sectors: u64,
    /// Every sector is to be written, too.
    pub(crate) writes: bool,
}

impl Image {
    /// The image that the command line names, or why it cannot be used, in one line.
    pub(crate) fn from_args(args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut writes, mut path) = (false, None);
        for arg in args {
            match arg.to_str() {
                Some("--write") => writes = true,
                Some(flag) if flag.starts_with('-') => {
                    return Err(format!("unknown option '{flag}': usage is disk [--write] [IMAGE]"));
                }
                _ if path.is_none() => path = Some(PathBuf::from(arg)),
                _ => return Err("more than one image: usage is disk [--write] [IMAGE]".into()),
            }
        }
        match path {
            Some(path) => Self::open(&path, writes),
            None if writes => Err("--write needs an IMAGE: this program's own file is not written".into()),
            None => Self::own(),
        }
    }

    fn open(path: &Path, writes: bool) -> Result<Self, String> {
        let opened = File::options().read(true).write(writes).open(path);
        let file = opened.map_err(|error| {
            let access = if writes { "reading and writing" } else { "reading" };
            format!("cannot open '{}' for {access}: {error}; name a disk image that may be", path.display())
        })?;
        let image = Self::new(file, path, writes)?;
        if image.bytes == 0 || image.bytes % 512 != 0 {
            return Err(format!(
                "'{}' has {} bytes, which is no disk of whole sectors: make it a multiple of 512, for instance by \
                 'truncate -s %512 IMAGE'",
                path.display(),
                image.bytes
            ));
        }
        Ok(image)
    }

    fn own() -> Result<Self, String> {
        let path =
            std::env::current_exe().map_err(|error| format!("this program's own file: {error}; name an IMAGE"))?;
        let file = File::open(&path).map_err(|error| format!("'{}': {error}; name an IMAGE", path.display()))?;
        Self::new(file, &path, false)
    }

    fn new(file: File, path: &Path, writes: bool) -> Result<Self, String> {
        let metadata = file.metadata().map_err(|error| format!("'{}': {error}", path.display()))?;
        if !metadata.is_file() {
            return Err(format!("'{}' is no regular file: name a disk image", path.display()));
        }
        let bytes = metadata.len();
        Ok(Self { file, path: path.to_owned(), bytes, sectors: bytes.div_ceil(512), writes })
    }

    /// The SHA-256 of the file, its last partial sector filled up with zeros.
    pub(crate) fn digest(&self) -> io::Result<String> {
        let (mut hash, mut chunk, mut at) = (Sha256::new(), vec![0; 1 << 20], 0);
        loop {
            match self.file.read_at(&mut chunk, at)? {
                0 => break,
                count => {
                    hash.update(chunk.get(..count).unwrap_or_default());
                    at += count as u64;
                }
            }
        }
        io::copy(&mut io::repeat(0).take(self.sectors * 512 - self.bytes), &mut hash)?;
        Ok(format!("{:x}", hash.finalize()))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.writes { "read and written" } else { "read-only" };
        write!(f, "{}, {} bytes, {} sectors, {access}", self.path.display(), self.bytes, self.sectors)
    }
}
