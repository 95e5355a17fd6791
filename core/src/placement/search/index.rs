//! Lists that the search looks things up in; made once, for the problem does not change.

use crate::placement::small::Small;

/// What of the problem is asked for again and again.
pub(super) struct Index {
    users: Rows<(usize, usize)>,
    options: Rows<usize>,
    tasks: Vec<Vec<usize>>,
}

/// The machine of each pool: pools that an option takes of together are of one. And how many there are.
pub(super) fn machines(small: &Small) -> (Vec<usize>, usize) {
    let mut next: Vec<usize> = (0..small.pools.len()).collect();
    fn first(next: &mut [usize], mut pool: usize) -> usize {
        while next[pool] != pool {
            next[pool] = next[next[pool]];
            pool = next[pool];
        }
        pool
    }
    for choice in &small.options {
        for pair in choice.takes.windows(2) {
            let (a, b) = (first(&mut next, pair[0].pool), first(&mut next, pair[1].pool));
            next[a.max(b)] = a.min(b);
        }
    }
    let mut count = 0;
    let mut machines = vec![0; next.len()];
    for pool in 0..next.len() {
        let first = first(&mut next, pool);
        machines[pool] = if first == pool { count } else { machines[first] };
        count += usize::from(first == pool);
    }
    (machines, count)
}

/// Lists of different lengths in one allocation.
struct Rows<T> {
    ends: Vec<usize>,
    all: Vec<T>,
}

impl<T: Copy + Default> Rows<T> {
    fn new(rows: usize, pairs: impl Iterator<Item = (usize, T)> + Clone) -> Self {
        let mut ends = vec![0; rows];
        for (row, _) in pairs.clone() {
            ends[row] += 1;
        }
        let mut begin = 0;
        for end in &mut ends {
            begin += std::mem::replace(end, begin);
        }
        let mut all = vec![T::default(); begin];
        for (row, item) in pairs {
            all[ends[row]] = item;
            ends[row] += 1;
        }
        Self { ends, all }
    }

    fn row(&self, row: usize) -> &[T] {
        let begin = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.all[begin..self.ends[row]]
    }
}

impl Index {
    pub(super) fn new(small: &Small) -> Self {
        let tasks = small.tasks.iter().enumerate();
        let uses = tasks.flat_map(|(task, wanted)| {
            wanted.uses.iter().enumerate().map(move |(at, one)| (one.option, (task, at)))
        });
        let groups = small.options.iter().enumerate().map(|(option, choice)| (choice.group, option));
        let mut by_pool: Vec<Vec<usize>> = vec![Vec::new(); small.pools.len()];
        for (option, (task, _)) in uses.clone() {
            for take in &small.options[option].takes {
                if by_pool[take.pool].last() != Some(&task) {
                    by_pool[take.pool].push(task);
                }
            }
        }
        Self {
            users: Rows::new(small.options.len(), uses),
            options: Rows::new(small.groups.len(), groups),
            tasks: by_pool,
        }
    }

    /// The tasks that can use `option`, ascending, with the position among their uses.
    pub(super) fn users(&self, option: usize) -> &[(usize, usize)] {
        self.users.row(option)
    }

    /// The options of `group`.
    pub(super) fn options(&self, group: usize) -> &[usize] {
        self.options.row(group)
    }

    /// The tasks with a use that takes of `pool`.
    pub(super) fn tasks(&self, pool: usize) -> &[usize] {
        &self.tasks[pool]
    }
}
