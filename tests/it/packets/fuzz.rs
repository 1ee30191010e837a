//! The harness of the fuzz target on fixtures and on what a few thousand changes make of them: the same each time.

use std::path::Path;

use super::fixtures::all;
use super::harness::{Change, Input, Reached, Step, play};

/// Every fixture's packets, as an input.
fn corpus() -> Vec<Input> {
    let steps = |fixture: &super::fixtures::Fixture| {
        fixture.packets().into_iter().map(|(packet, _)| Step::Packet(packet)).collect()
    };
    all().iter().map(|fixture| Input { tables: 0, steps: steps(fixture) }).collect()
}

#[test]
fn every_fixture_is_an_input_of_the_fuzz_target() {
    // Where the fuzz target begins: `tests/fuzz` says how it is given this.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("steer-corpus");
    std::fs::create_dir_all(&folder).unwrap();
    for (number, input) in corpus().iter().enumerate() {
        let bytes = input.write();
        assert!(Input::read(&bytes) == *input, "input {number}");
        play(&bytes, &mut Reached::default());
        std::fs::write(folder.join(number.to_string()), bytes).unwrap();
    }
}

#[test]
fn nothing_that_comes_in_breaks_what_must_hold() {
    let mut random = Random(SEED);
    let corpus = corpus();
    let mut reached = Reached::default();
    for round in 0..ROUNDS {
        let mut input = random.of(&corpus).clone();
        for _ in 0..=random.below(4) {
            random.change(&mut input, &corpus);
        }
        let bytes = input.write();
        let held = std::panic::catch_unwind(|| {
            let mut reached = Reached::default();
            play(&bytes, &mut reached);
            reached
        });
        let Ok(now) = held else { panic!("seed {SEED:#x}, round {round}: {input:02x?}") };
        reached.passed += now.passed;
        reached.dropped += now.dropped;
        reached.forwarded += now.forwarded;
        reached.answered += now.answered;
    }
    println!("{reached:?}");
    let Reached { passed, dropped, forwarded, answered } = reached;
    assert!([passed, dropped, forwarded, answered].iter().all(|count| *count > 1_000), "{reached:?}");
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// One change of steps, tables or a packet's bytes.
    fn change(&mut self, input: &mut Input, corpus: &[Input]) {
        let place = self.below(input.steps.len() + 1);
        match self.below(12) {
            0 => input.tables = self.byte(),
            1 => input.steps.insert(place, Step::Wait(self.byte() & 15)),
            2 => {
                let change = *self.of(&[Change::Gone, Change::Ready, Change::Unresolved, Change::Another]);
                input.steps.insert(place, Step::Target(self.byte(), change));
            }
            3 => {
                let other = self.of(corpus).clone();
                let step = self.of(&other.steps).clone();
                input.steps.insert(place, step);
            }
            4 if place < input.steps.len() => {
                let step = input.steps[place].clone();
                input.steps.push(step);
            }
            _ => {
                if let Some(Step::Packet(packet)) = input.steps.get_mut(place) {
                    self.change_packet(packet);
                }
            }
        }
    }

    fn change_packet(&mut self, packet: &mut Vec<u8>) {
        // Headers are where decisions are made.
        let reach = if self.below(4) == 0 { packet.len() } else { packet.len().min(96) };
        let at = self.below(reach + 1);
        match self.below(6) {
            0 => packet.truncate(at),
            1 => packet.insert(at, 0),
            2 => {
                packet.extend(std::iter::repeat_n(0x5a, at));
            }
            3 => {
                let value = *self.of(&[0_u16, 1, 0x14, 0x45, 0x7fff, 0x8000, 0x86dd, 0x0800, 0xffff]);
                if let Some(field) = packet.get_mut(at..at + 2) {
                    field.copy_from_slice(&value.to_be_bytes());
                }
            }
            4 => {
                let bit = 1 << self.below(8);
                packet.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
            }
            _ => {
                let value = self.byte();
                packet.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
        }
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// A few seconds of them, unoptimized.
const ROUNDS: usize = 50_000;
