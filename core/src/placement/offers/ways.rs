//! In which ways a model could lie on a machine: as it does, whole, or in parts; and what each takes.

use super::{Builder, Draft, LOAD, LOAD_SECOND, LONGEST_S, Offer, SHARES};
use crate::fit::{Demand, Offload};
use crate::id::ModelId;
use crate::memory::{Confidence, Footprint, Parts};
use crate::placement::catalogue::{KnownModel, Size};
use crate::placement::site::{Held, Site, Standing};
use crate::placement::small::Take;
use crate::units::Bytes;

impl Builder<'_> {
    /// What is in memory, with what it takes.
    pub(super) fn held_offer(
        &mut self,
        number: usize,
        model: &ModelId,
        held: &Held,
        mates: u32,
        known: Option<&KnownModel>,
    ) {
        let site = &self.sites[number];
        if matches!(site.standing, Standing::Closed(_)) {
            return;
        }
        let told = known.and_then(|known| known.trained_context);
        let size = Size {
            context: held.context.or(told).unwrap_or(u32::MAX),
            slots: held.slots.unwrap_or(1),
            cache: held.cache.unwrap_or_default(),
        };
        let is_guess = held.context.is_none();
        let needs = held
            .memory
            .map_or(Demand::default(), |memory| Demand { device: memory.device, host: memory.host });
        let weighed = |bytes| Parts { weights: bytes, ..Parts::default() };
        let measured = held.memory.is_some_and(|memory| memory.measured);
        let confidence = if measured { Confidence::Measured } else { Confidence::Guessed };
        let mut footprint = Footprint {
            device: weighed(needs.device),
            host: weighed(needs.host),
            confidence,
            notes: Vec::new(),
        };
        let gpu = site.pools.devices.iter().find(|device| Some(&device.id) == held.gpu.as_ref());
        let on_device = needs.device.0 > 0 && gpu.is_some();
        let offload = held.offload.unwrap_or(if on_device { Offload::Full } else { Offload::None });
        if let Some(known) = known.filter(|_| !is_guess) {
            // The parts are the formula's, the sum is what it takes.
            let predicted = known.lying(size, offload);
            footprint.device = scaled(predicted.device, needs.device);
            footprint.host = scaled(predicted.host, needs.host);
        }
        let offer = Offer {
            site: number,
            model: model.clone(),
            size,
            offload,
            gpu: gpu.filter(|_| on_device).map(|device| device.id.clone()),
            footprint,
            needs,
            fixed: held.fixed,
            is_guess,
        };
        self.drafts.push(Draft { offer, mates, load: LOAD, is_held: true });
    }

    /// One size on one machine, as an option for each processor it could lie on.
    pub(super) fn offer(
        &mut self,
        number: usize,
        model: &ModelId,
        (size, mates, with_parts): (Size, u32, bool),
        known: &KnownModel,
    ) -> Result<(), String> {
        let site = &self.sites[number];
        let held = self.drafts.iter().find(|draft| draft.is_held && !draft.offer.is_guess);
        let held = held.map(|draft| draft.offer.clone());
        let is_held = |offer: &Offer| {
            held.as_ref().is_some_and(|held| {
                held.size == offer.size && held.offload == offer.offload && held.gpu == offer.gpu
            })
        };
        let devices: Vec<usize> = if site.pools.devices.is_empty() {
            vec![usize::MAX]
        } else {
            (0..site.pools.devices.len()).collect()
        };
        let load = LOAD + LOAD_SECOND * site.load_seconds(model, known.size).min(LONGEST_S);
        let mut refusal = Ok(());
        let mut found = false;
        for device in devices {
            match self.way(number, device, 1.0, model, size, known) {
                Ok(offer) => {
                    let is_whole = offer.offload == Offload::Full;
                    let has_own = site.pools.devices.get(device).is_some_and(|one| one.carve_out.is_none());
                    if !is_held(&offer) {
                        self.drafts.push(Draft { offer, mates, load, is_held: false });
                    }
                    found = true;
                    let shares = if is_whole && has_own && with_parts { &SHARES[..] } else { &[] };
                    for &share in shares {
                        if let Ok(offer) = self.way(number, device, share, model, size, known)
                            && !is_held(&offer)
                        {
                            self.drafts.push(Draft { offer, mates, load, is_held: false });
                        }
                    }
                }
                Err(why) => refusal = Err(why),
            }
        }
        if found { Ok(()) } else { refusal }
    }

    /// The best way with this share of the processor's memory.
    pub(super) fn way(
        &mut self,
        number: usize,
        device: usize,
        share: f64,
        model: &ModelId,
        size: Size,
        known: &KnownModel,
    ) -> Result<Offer, String> {
        let site = &self.sites[number];
        let mut pools = site.pools.clone();
        let only = pools.devices.get(device).filter(|_| share > 0.0).cloned();
        pools.devices = only.into_iter().collect();
        for device in pools.devices.iter_mut().filter(|_| share < 1.0) {
            device.memory.available = Bytes((device.memory.available.0 as f64 * share) as u64);
        }
        let one = pools.devices.first();
        let ram = pools.ram.known().map_or(u64::MAX, |ram| ram.available.0);
        let key = (
            model.clone(),
            size,
            one.map_or(0, |device| device.memory.available.0),
            ram,
            one.is_some_and(|device| device.carve_out.is_some()),
        );
        let gpu = one.map(|device| device.id.clone());
        if !self.ways.contains_key(&key) {
            let (choice, footprint) = known.way(size, &pools, site.margin);
            let fits = choice.fit.fits;
            self.ways.insert(key.clone(), (choice.trial.offload, footprint, fits, choice.fit.why));
        }
        let (offload, footprint, fits, why) = self.ways.get(&key).cloned().expect("it was put there");
        if !fits {
            return Err(why);
        }
        let mut offer = Offer {
            site: number,
            model: model.clone(),
            size,
            offload,
            gpu: gpu.filter(|_| offload != Offload::None),
            needs: Demand { device: footprint.device.total(), host: footprint.host.total() },
            footprint,
            fixed: false,
            is_guess: false,
        };
        if let Some(measured) = measured(site, &offer, known) {
            offer.footprint.device = scaled(offer.footprint.device, measured.device);
            offer.footprint.host = scaled(offer.footprint.host, measured.host);
            offer.footprint.confidence = Confidence::Measured;
            offer.needs = measured;
        }
        Ok(offer)
    }

    /// What an offer takes of its machine's pools.
    pub(super) fn takes(&self, offer: &Offer) -> Vec<Take> {
        let site = &self.sites[offer.site];
        let first = self.first_pool[offer.site];
        let ram = first + site.pools.devices.len();
        let device = site.pools.devices.iter().position(|device| Some(&device.id) == offer.gpu.as_ref());
        let mut takes = Vec::with_capacity(2);
        let beside = |bytes: u64| site.margin.beside(Bytes(bytes)).0;
        let mut host = offer.needs.host.0;
        if let Some(at) = device {
            let bytes = offer.needs.device.0;
            takes.push(Take { pool: first + at, bytes, margin: beside(bytes) });
            if site.pools.devices[at].carve_out.is_some() {
                host = host.saturating_add(bytes);
            }
        } else {
            host = host.saturating_add(offer.needs.device.0);
        }
        takes.push(Take { pool: ram, bytes: host, margin: beside(host) });
        takes
    }
}

/// What a load of this size was measured to take on its machine.
fn measured(site: &Site, offer: &Offer, known: &KnownModel) -> Option<Demand> {
    let gpu = offer.gpu.as_ref();
    let record = site.footprints.iter().filter(|record| record.measured.is_some()).filter(|record| {
        let load = &record.load;
        let is_model = known
            .digest
            .as_ref()
            .map_or_else(|| load.model == offer.model.as_str(), |digest| load.model == digest.as_str());
        is_model
            && load.options.context == offer.size.context
            && load.options.slots == offer.size.slots
            && load.options.cache == offer.size.cache.word()
            && load.options.offload == offer.offload
            && gpu.is_none_or(|gpu| load.device.contains(gpu.as_str()))
    });
    let measured = record.max_by_key(|record| record.at)?.measured?;
    Some(Demand { device: measured.device, host: measured.host })
}

/// The parts, so that their sum is `total`: the weights and the cache are as they are, what differs is computing and
/// overhead.
fn scaled(parts: Parts, total: Bytes) -> Parts {
    let firm = Parts { compute: Bytes(0), overhead: Bytes(0), ..parts };
    match total.0.checked_sub(firm.total().0) {
        Some(rest) => {
            let compute = parts.compute.0.min(rest);
            Parts { compute: Bytes(compute), overhead: Bytes(rest - compute), ..firm }
        }
        None => Parts { weights: total, ..Parts::default() },
    }
}
