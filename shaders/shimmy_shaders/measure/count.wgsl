// As good as nothing: what a dispatch costs by itself.
@group(0) @binding(0) var<storage, read_write> count: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    count[lane] += 1u;
}
