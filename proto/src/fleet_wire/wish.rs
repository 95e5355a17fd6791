//! Directives.

use super::store::digest_from_wire;
use super::{WireError, model, text, unknown_word};
use crate::v1;
use mesh_core::fit::Offload;
use mesh_core::machine::{Directive, LoadWish, PullSource, PullWish};
use mesh_core::units::Bytes;

/// The most bytes of an address that a model is fetched from.
const URL_LIMIT: usize = 4096;

/// A directive of the router's `term` as a wire message.
#[must_use]
pub fn directive_to_wire(directive: &Directive, term: u64) -> v1::Directive {
    use v1::directive::Wish;
    let wish = match directive {
        Directive::Load(wish) => Wish::Load(v1::LoadWish {
            model: wish.model.to_string(),
            context: wish.context,
            slots: wish.slots,
            cache_type: wish.cache_type.clone().unwrap_or_default(),
            offload: wish.offload.map(Offload::words).unwrap_or_default(),
        }),
        Directive::Unload(model) => Wish::Unload(model.to_string()),
        Directive::Pull(wish) => Wish::Pull(pull_to_wire(wish)),
        Directive::CancelPull(model) => Wish::CancelPull(model.to_string()),
        Directive::Delete(model) => Wish::Delete(model.to_string()),
    };
    v1::Directive { wish: Some(wish), term }
}

/// A wire message as a directive.
///
/// # Errors
/// [`WireError`] when the wish is missing, names no valid model or is not complete.
pub fn directive_from_wire(directive: v1::Directive) -> Result<Directive, WireError> {
    use v1::directive::Wish;
    Ok(match directive.wish.ok_or(WireError::Missing("directive.wish"))? {
        Wish::Load(wish) => Directive::Load(LoadWish {
            model: model("directive.load", wish.model)?,
            context: wish.context,
            slots: wish.slots,
            cache_type: Some(text("directive.load.cache_type", wish.cache_type)?).filter(|t| !t.is_empty()),
            offload: offload(&wish.offload)?,
        }),
        Wish::Unload(name) => Directive::Unload(model("directive.unload", name)?),
        Wish::Pull(wish) => Directive::Pull(pull_from_wire(wish)?),
        Wish::CancelPull(name) => Directive::CancelPull(model("directive.cancel_pull", name)?),
        Wish::Delete(name) => Directive::Delete(model("directive.delete", name)?),
    })
}

fn offload(words: &str) -> Result<Option<Offload>, WireError> {
    if words.is_empty() {
        return Ok(None);
    }
    let known = Offload::from_words(words);
    known.map(Some).ok_or_else(|| unknown_word("directive.load.offload", words))
}

fn pull_to_wire(wish: &PullWish) -> v1::PullWish {
    use v1::pull_wish::Source;
    v1::PullWish {
        model: wish.model.to_string(),
        source: Some(match &wish.source {
            PullSource::Engine => Source::Engine(true),
            PullSource::Url(url) => Source::Url(url.clone()),
            PullSource::Mesh => Source::Mesh(true),
        }),
        digest: wish.digest.as_ref().map(ToString::to_string).unwrap_or_default(),
        size: wish.size.map(|size| size.0),
    }
}

fn pull_from_wire(wish: v1::PullWish) -> Result<PullWish, WireError> {
    use v1::pull_wish::Source;
    let source = match wish.source.ok_or(WireError::Missing("directive.pull.source"))? {
        Source::Engine(_) => PullSource::Engine,
        Source::Url(url) if url.len() > URL_LIMIT => {
            return Err(WireError::TooMany {
                field: "directive.pull.url",
                length: url.len(),
                limit: URL_LIMIT,
            });
        }
        Source::Url(url) => PullSource::Url(url),
        Source::Mesh(_) => PullSource::Mesh,
    };
    Ok(PullWish {
        model: model("directive.pull", wish.model)?,
        source,
        digest: digest_from_wire("directive.pull.digest", &wish.digest)?,
        size: wish.size.map(Bytes),
    })
}
