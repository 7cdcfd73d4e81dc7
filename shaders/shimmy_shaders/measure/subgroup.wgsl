// How many lanes a subgroup has, and how many take part in its functions.
@group(0) @binding(0) var<storage, read_write> found: array<u32, 2>;

@compute @workgroup_size(256)
fn main(@builtin(subgroup_size) lanes: u32, @builtin(local_invocation_index) index: u32) {
    let sum = subgroupAdd(1u);
    if (index == 0u) {
        found[0] = lanes;
        found[1] = sum;
    }
}
