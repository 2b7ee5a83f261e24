//! Moves and their undoing, hosts left behind, sidecars that die.

use overlay_proto::{Action, Frame};

use super::side::Move;
use super::world::World;

impl World {
    pub fn go_on_moving(&mut self, side: usize, rough: u32) {
        let here = &mut self.sides[side];
        match here.moving {
            Move::No if rough < 60 && here.ended.is_none() => {
                here.moving = Move::Holding;
                here.half.hold();
                here.settle(&mut self.link);
            }
            Move::No => {}
            Move::Holding if here.ended.is_some() => here.moving = Move::No,
            Move::Holding if rough < 40 => self.undo_move(side, rough & 1 == 0),
            Move::Holding if here.hold_agreed => self.move_over(side),
            Move::Holding => {}
            Move::Restored => self.release(side, rough & 1 == 0),
        }
    }

    fn undo_move(&mut self, side: usize, revoked: bool) {
        let here = &mut self.sides[side];
        here.moving = Move::No;
        here.hold_agreed = false;
        here.saw(if revoked { "revoked" } else { "undone" });
        if revoked {
            self.new_generation(side);
        }
        self.sides[side].half.release();
        self.sides[side].settle(&mut self.link);
    }

    fn move_over(&mut self, side: usize) {
        self.break_link(0);
        self.leave_zombie(side);
        self.new_generation(side);
        let here = &mut self.sides[side];
        here.host = self.hosts_made;
        self.hosts_made += 1;
        here.reborn(true);
        here.moving = Move::Restored;
        here.saw("moved");
        if !here.kernel.accepted && here.ended.is_none() {
            here.saw(if here.kernel.taken > 0 { "dialled again with bytes" } else { "dialled again" });
            here.kernel = here.kernel.dialled_again();
            here.half.dialled_again();
        }
        here.settle(&mut self.link);
        if self.sides.iter().all(|side| side.moving == Move::Restored) {
            self.sides[side].saw("both away");
        }
    }

    /// The half left behind would attach with a high attempt, under the old generation.
    fn leave_zombie(&mut self, side: usize) {
        let mut left = self.sides[side].half.clone();
        for _ in 0..50 {
            left.link_up();
            left.release();
            left.link_lost();
            left.link_up();
            while let Some(action) = left.poll() {
                if let Action::Transmit(frame @ Frame::Attach(_)) = action {
                    self.zombie[1 - side] = Some(frame);
                }
            }
        }
    }

    pub fn hear_zombie(&mut self, side: usize) {
        let here = &mut self.sides[side];
        let informed = !here.directory_news && !here.directory_asked;
        if let Some(frame) =
            self.zombie[side].take_if(|_| informed && here.ended.is_none() && here.link.is_some())
        {
            here.saw("zombie");
            here.handle(&frame, &mut self.link);
        }
    }

    pub fn release(&mut self, side: usize, told: bool) {
        if told {
            self.sides[side].directory_news = true;
            self.hear_directory(side, true);
        }
        self.sides[side].moving = Move::No;
        if self.sides[side].link.is_some() {
            self.sides[side].link_up(&mut self.link);
        }
    }

    fn new_generation(&mut self, side: usize) {
        self.generations[side] += 1;
        self.sides[0].directory_news = true;
        self.sides[1].directory_news = true;
    }

    pub fn crash(&mut self, side: usize, rough: u32) {
        if self.sides[side].moving == Move::Restored {
            return;
        }
        self.break_link(u64::from(rough));
        let here = &mut self.sides[side];
        here.reborn(rough & 1 == 0);
        here.saw("crashed");
        here.moving = Move::No;
        here.directory_news = true;
        here.settle(&mut self.link);
    }
}
