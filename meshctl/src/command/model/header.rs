//! The header of a GGUF file here or on a web server: as few bytes of it as tell a model's memory.

use crate::exit::{Failure, Kind, chain};
use futures_util::StreamExt;
use mesh_core::gguf::{self, Header, Outcome};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, StatusCode, Url};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// The first read: the metadata of most models without their vocabulary.
const FIRST_READ: u64 = 1 << 20;
/// No header is longer: vocabularies have up to 20 MiB.
const LIMIT: u64 = 256 << 20;
/// Parts of a split model; the largest ones published have under 50.
const PARTS: u32 = 128;
/// A server that does not answer within this is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Between two bytes of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// The header of the model in the file at `path`, all parts of a split one.
///
/// # Errors
/// `NotFound` when there is no file, `Failed` with what is wrong with it.
pub(super) async fn of_file(path: &Path) -> Result<Header, Failure> {
    let first = header(&mut Disk { path: path.to_owned() }).await?;
    let mut headers = Vec::new();
    for name in others(&first, path.to_string_lossy().as_ref())? {
        headers.push(header(&mut Disk { path: PathBuf::from(name) }).await?);
    }
    joined(first, headers)
}

/// The header of the model at `url`, all parts of a split one.
///
/// # Errors
/// `NotFound` when the server has no such file, `Failed` with what is wrong with it or the way there.
pub(super) async fn of_url(url: &Url) -> Result<Header, Failure> {
    let builder = Client::builder().connect_timeout(CONNECT_LIMIT).read_timeout(SILENCE);
    // Without TLS there is nobody to verify, and a machine without root certificates must still work.
    let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    let client = builder
        .build()
        .map_err(|error| Failure::new(Kind::Failed, "cannot make a web client").cause(chain(&error)))?;
    let first = header(&mut Web { client: client.clone(), url: url.clone() }).await?;
    let mut headers = Vec::new();
    for name in others(&first, url.path())? {
        let mut part = url.clone();
        part.set_path(&name);
        headers.push(header(&mut Web { client: client.clone(), url: part }).await?);
    }
    joined(first, headers)
}

fn joined(first: Header, mut others: Vec<Header>) -> Result<Header, Failure> {
    if others.is_empty() {
        return Ok(first);
    }
    others.push(first);
    gguf::join(others).map_err(|error| {
        Failure::new(Kind::Failed, "the parts do not belong together").cause(error.to_string())
    })
}

/// The names of the other parts of a split model of which one is `name`.
fn others(header: &Header, name: &str) -> Result<Vec<String>, Failure> {
    let Some(split) = header.split() else { return Ok(Vec::new()) };
    let own = format!("-{:05}-of-{:05}", split.number.saturating_add(1), split.count);
    if split.count > PARTS {
        let what = format!("{name} is one of {} parts, more than {PARTS}", split.count);
        return Err(Failure::new(Kind::Failed, what));
    }
    let Some((before, after)) = name.rsplit_once(&own) else {
        let what = format!("{name} is one of {} parts, and the others cannot be found", split.count);
        return Err(Failure::new(Kind::Failed, what).hint(format!("give it its usual name: …{own}.gguf")));
    };
    let numbers = (1..=split.count).filter(|number| *number != split.number.saturating_add(1));
    Ok(numbers.map(|number| format!("{before}-{number:05}-of-{:05}{after}", split.count)).collect())
}

/// Something with bytes in order.
trait Bytes {
    /// What it is called in messages.
    fn name(&self) -> String;

    /// Up to `length` bytes from `offset` on, and the size of the whole where it is told.
    async fn read(&mut self, offset: u64, length: u64) -> Result<(Vec<u8>, Option<u64>), Failure>;
}

async fn header(source: &mut impl Bytes) -> Result<Header, Failure> {
    let wrong = |source: &dyn Fn() -> String, why: String| {
        Failure::new(Kind::Failed, format!("{} is no model that can be counted", source())).cause(why)
    };
    let mut bytes = Vec::new();
    let mut want = FIRST_READ;
    loop {
        let have = bytes.len() as u64;
        let (more, size) = source.read(have, want - have).await?;
        bytes.extend(more);
        let there = bytes.len() as u64;
        match gguf::read(&bytes, size).map_err(|error| wrong(&|| source.name(), error.to_string()))? {
            Outcome::Complete(header) => return Ok(header),
            Outcome::NeedMore { .. } if there == have => {
                return Err(wrong(
                    &|| source.name(),
                    format!("it ends within its header, after {there} bytes"),
                ));
            }
            Outcome::NeedMore { at_least } if at_least > LIMIT => {
                return Err(wrong(
                    &|| source.name(),
                    format!("its header is longer than {} MiB", LIMIT >> 20),
                ));
            }
            // Doubled, so that many small strings do not cost a question each.
            Outcome::NeedMore { at_least } => want = at_least.max(there.saturating_mul(2)).min(LIMIT),
        }
        if want <= there {
            return Err(wrong(&|| source.name(), format!("its header is longer than {} MiB", LIMIT >> 20)));
        }
    }
}

struct Disk {
    path: PathBuf,
}

impl Bytes for Disk {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    async fn read(&mut self, offset: u64, length: u64) -> Result<(Vec<u8>, Option<u64>), Failure> {
        let path = &self.path;
        let reading = async {
            let mut file = tokio::fs::File::open(path).await?;
            let about = file.metadata().await?;
            if !about.is_file() {
                return Err(std::io::Error::other("it is no file"));
            }
            file.seek(std::io::SeekFrom::Start(offset)).await?;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes).await?;
            Ok((bytes, Some(about.len())))
        };
        reading.await.map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let kind = if missing { Kind::NotFound } else { Kind::Failed };
            let failure = Failure::new(kind, format!("cannot read {}", self.name())).cause(error.to_string());
            if missing {
                failure.hint("models of the mesh go by their names: meshctl model list")
            } else {
                failure
            }
        })
    }
}

struct Web {
    client: Client,
    url: Url,
}

impl Bytes for Web {
    /// Without a user name or a query: both may hold secrets.
    fn name(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }

    async fn read(&mut self, offset: u64, length: u64) -> Result<(Vec<u8>, Option<u64>), Failure> {
        let broke = |error: reqwest::Error, name: String| {
            let what = format!("cannot read {name}");
            Failure::new(Kind::Failed, what).cause(chain(&error.without_url()))
        };
        let range = format!("bytes={offset}-{}", offset + length - 1);
        let asked = self.client.get(self.url.clone()).header(RANGE, range).send().await;
        let answer = asked.map_err(|error| broke(error, self.name()))?;
        // A server that ignores ranges begins from the beginning.
        let (mut skip, size) = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let told = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                (0, told.and_then(|told| told.rsplit_once('/')?.1.parse().ok()))
            }
            StatusCode::OK => (offset, answer.content_length()),
            StatusCode::RANGE_NOT_SATISFIABLE => return Ok((Vec::new(), None)),
            status => {
                let kind = if status == StatusCode::NOT_FOUND { Kind::NotFound } else { Kind::Failed };
                let failure = Failure::new(kind, format!("cannot read {}", self.name()));
                return Err(failure.cause(format!("the server answers {status}")));
            }
        };
        let (mut bytes, mut chunks) = (Vec::new(), answer.bytes_stream());
        while (bytes.len() as u64) < length {
            let Some(chunk) = chunks.next().await else { break };
            let chunk = chunk.map_err(|error| broke(error, self.name()))?;
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            bytes.extend_from_slice(&chunk[usize::try_from(skipped).unwrap_or(chunk.len())..]);
        }
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok((bytes, size))
    }
}
