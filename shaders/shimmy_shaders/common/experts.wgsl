// Which expert a slot has: parameter `slots`; needs a binding `chosen: array<f32>`, or a choice of the slot's row.
fn expert_of(slot: u32) -> u32 {
# if choice
    return numbers[slot % ${slots.used}u];
# else
    let number = chosen[slot / ${slots.used}u * ${2 * slots.used}u + slot % ${slots.used}u];
    return min(u32(max(number, 0.0)), ${slots.experts - 1}u);
# endif
}
// Whether the matrix has it, and which of those there it is; of others the first.
fn is_here(slot: u32) -> bool {
    let expert = expert_of(slot);
    return expert >= ${slots.here.start}u && expert < ${slots.here.stop}u;
}
fn expert_here(slot: u32) -> u32 { return select(0u, expert_of(slot) - ${slots.here.start}u, is_here(slot)); }
