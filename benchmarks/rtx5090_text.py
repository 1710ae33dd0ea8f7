"""What ``docs/rtx5090.md`` says around its figures (:mod:`benchmarks.rtx5090`)."""

TEXT = """# An RTX 5090 that nobody here has

Written by `python -m benchmarks.rtx5090 --write docs/rtx5090.md` from the calibration that ships
(`calib/cards`) and the published figures in `benchmarks/data/rtx5090_public.csv`, each with its
source. {summary}

## How it is predicted

1. Fits of the RTX PRO 6000's rows, the same die, in clock cycles and ratios, are asked for this
   card's figures in `conf/hw/rtx5090.yaml` (`docs/cards.md` says how lenders are chosen). A GeForce
   accumulates in float32 at half that card's rate; its peak accounts for that.
2. Its clock is taken {ratio:.3f} times the rated one: the middle of the published range of
   register-resident bfloat16 products over the datasheet's rate. Datasheet figures are at the rated
   clock, real cards run above it. Main memory does not follow the clock.
3. tf32 is the bfloat16 product of as many bytes, a norm or softmax one pointwise kernel of as many
   bytes, attention is flash attention 2 (`calib/cards/tables/stand_ins.py`).
4. A product that fills the card takes whole tiles on whole multiprocessors
   (`calib/fit/physics/limits/rounds.py`), since the lender's fit, at twice the rate, knows no tiles
   here.
5. Products and attention were timed on the same tensors again and again, so they are predicted with
   a warm L2; norms and softmax were timed after a flush, so they are predicted cold. Attention *in
   turns* was timed by kernels that took turns, over two copies of its inputs: where both do not fit
   into the L2 it is predicted cold.

{afterwards}

## Errors

Error is estimated over published time, minus one: positive is too slow. *Stock power*: three cards
of one public test, whose limits are not said. *A slower card*: a fourth of the same test, whose
float32 is a fifth slower as well, as of a card that is held; with it the median of the bfloat16
products is {with_slower:.1%}. *RTX 5090 D*: two cards of as many multiprocessors and watts.
*Another hand*, *in turns*: one author, eager PyTorch. All are predicted alike.

{groups}

Stock power, six rows of the cap, three of attention and the last three groups were here before; all
other rows were added after whole tiles and split keys, above, had been asked of them.

## A whole decode step

DeepSeek-OCR by its vendor's code, one token at batch 1: published {published_ms:.2f} ms eager.
Estimated: kernels alone {kernel_ms:.2f} ms, eager with the host's published costs
{wall_ms:.2f} ms ({low_ms:.2f} - {high_ms:.2f}), as a CUDA graph
{graph_ms:.2f} ms; roofline {roofline_ms:.3f} ms. The published time lies {where} the interval,
which is as wide as published hosts differ. That run states neither its prompt nor its CPU.
[timeline.md](timeline.md) has its launches.

The kernels alone, which no host slows, as Nsight Systems timed them in that run (figures in
`benchmarks/data/deepseek_ocr_decode_kernels.csv`); the calibration saw none of them:

{kernels}

## What cannot be known without a card

How high it clocks under a long load, with its cooler and its power limit: products follow the
clock, and published cards differ by a fifth. What a cap takes: `hw.power_w=400` slows attention of
prompts by 0 to 1% and no product, which a report says, because a FLOP of the lender's bfloat16
takes 1.4 to 1.5 pJ, by which this card would do its products in 350 W. Under 400 W it does 167 to
200 TFLOP/s of 8192 cubed where it does 235 without, at 2 to 2.4 pJ: at half the rate the clock, the
memory and what leaks cost as much a second for half the FLOPs, and at the top of its voltage. The
Max-Q card of the lender's die does 294 TFLOP/s at 300 W and the server card 410 at 600, 1.0 and 1.5
pJ, so that joules go with the voltage besides. Attention under 400 W is 2 to 3% slower than under
600, as told. Which kernels its library picks: 4096 cubed is 512 tiles of 128 x 256, four rounds,
the last of two tiles, or 1024 of 128 x 128, seven. bfloat16 takes the four in all six reports, as
bfloat16 of five other half-rate cards does, where it costs them up to 8% and here 14%
([cards.md](cards.md)). float16 takes the four by cuBLAS 12.8.3 and the seven by 12.8.4 and 13, and
2048 x 8192 x 3840, of as many tiles, the seven. 1024 cubed is a round of 64 tiles of 128 x 128 in
bfloat16, as on those cards, and of 128 smaller ones in float16. A rule that told these apart would
be made for this page. How its L2, three quarters of the RTX PRO 6000's, keeps weights beside
activations. What the host costs, which is the CPU's and the driver's more than the card's. An hour
with one card replaces all of this: its samples take precedence over what ships.

## Every row

{rows}
"""
AFTERWARDS = """**What was changed after the errors had been seen.** The first prediction was made
blind. Its median errors: bfloat16 products 16.4% at stock power and 14.5% under the cap, tf32
19.7%, attention 34.9%, rmsnorm 27.2%, softmax 26.0%, copy 24.5%. Three things were then changed,
so the errors below are not blind:

- a defect: a flag of an operator counted as outside the sampled range when operators were given as
  a list and not as a grid, which took away part of what pointwise kernels and attention had learned
  (pointwise kernels came out above the memory's bandwidth);
- another: an operator without weights counted as resident in the L2 when its input fits, though its
  output did not;
- the lenders: at first all six cards lent alike. Now cards of the same compute capability come
  first. The reason is in the tables and not in these errors: on the one pair of like cards there
  (H100, H200), products of one are predicted better from the other alone than from all five. Still,
  the question was asked after the first look.

With the recipe unchanged, three fits that differed in the number and the rate of their trees gave
8.1%, 9.6% and 10.7% for the bfloat16 products at stock power: two points either way mean nothing.
Later the fits themselves were changed, on the tables alone (`docs/calibration.md`): how other cards
are weighed, the physics of attention, the physics of products.

- Products went from 10.7% to 9.6%, and with a physics that knows tiles to 16.3%: those up to 4096
  became faster than they are. Published times of 2048 and 4096 cubed are those of tiles of 128 x
  256 on 170 multiprocessors, 0.75 and 3.01 rounds of them. The fit took smaller tiles for as good,
  since beside a product at half the rate their loads are cheap. One lender at one rate cannot tell.
  The tables show the same between other cards whose rates differ by two, so beyond the rates that
  were sampled tiles are left out (`docs/calibration.md`). What stands below came of that.
- Attention, one shape by three libraries, went from 30% to 49%, and was then given a cost for the
  softmax of each score. On the RTX PRO 6000 this shape takes twice its floor, which the fit puts
  down to seven tenths of the matrix rate and to the last block's walk, added. Here products take
  twice as long, and what stands beside them on that card seems to hide behind them.
- Then the power limits of both cards were accounted for (`calib/fit/physics/limits/power.py`), by
  what pairs of other cards say: products of 8192 and 10240 cubed went from 9% off to 3%, those of
  2048 and 4096 from 10 to 15% too fast, and with them the median from 9.6 to 13.5%. What is left
  there is the rounds of large tiles that the library takes and no lender shows. Tried and left,
  since twelve pairs of other cards do not want it or these products get worse: candidates at half
  the rate (19%), the library's choice made at the lender's rate, a limit that short products do not
  feel, three lenders for one.
- Then whole tiles became a bound on such products, the least of all tiles, seen first in this
  page's 2048 cubed and then in 128 products of nine other half-rate cards ([cards.md](cards.md)),
  none of which is faster: 2048 cubed went from 14 to 9% too fast, and with it the median from 13.7
  to 8.4%. What was not done, since float16 on this card says otherwise: to take 128 x 256 as given,
  by which 4096 cubed would be 5% too fast and the median 5%.
- The three times of attention had been read as of one sequence; they are of four. They were told
  23% too slow by a mistake of this page and not of the estimate, and are 5% too fast. What was done
  for them before, above, was done for a wrong reason.
- 59 further times of attention by another hand then showed one query of heads that share no keys
  1.5 to 2.4 times too slow: engines' FlashAttention 2 splits keys only where heads share them,
  torch's always (`calib/hardware/attention_backend.py`). With that the median of its 24 went from
  20 to 6.4%, and attention of the decode step below from 41 to 23% too slow. Some of what is cold
  was faster than main memory (by up to 18%, of attention over 67 MB), and no longer is."""
"""What was changed after the errors had been seen, to be read before the errors."""
