r"""The claims of the papers, as data: who says what, how it is tested here, what they found.

A claim of several halves has several rows. Paper figures are from the tables named. Leaves out:
claims about networks of the published size. Read next: ``report.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import codec_claims as codecs
from . import model_claims as models
from . import token_claims as tokens
from .codec_claims import Measure


@dataclass(frozen=True)
class Claim:
    r"""A sentence that can be wrong.

    Attributes
    ----------
    name
        Number, with a letter where a claim has several halves.
    source
        Paper, and where in it.
    statement
        What is claimed.
    metric
        What is measured, the gain's unit included; a positive gain speaks for the claim.
    paper
        The paper's figures.
    measure
        From a workshop and a seed to ``gain`` and the figures behind it.
    version
        Of the measure; raise it with what is measured: values of another version do not count.
    """

    name: str
    source: str
    statement: str
    metric: str
    paper: str
    measure: Measure
    version: int = 1

    @property
    def number(self) -> int:
        """Of the claim, without its letter."""
        return int(self.name.rstrip("abcdef"))


STOI = "STOI, points"
READ = "phonemes misread on codebook 1, points fewer"
vq, fsq = codecs.dynamic("VQ"), codecs.dynamic("FSQ")

CLAIMS = (
    Claim("1a", "SACodec, §5", "Anchoring raises usage over a learnable codebook",
          "entries of codebook 1 in use, %", "100 % in use", codecs.anchoring("learnable"), 2),
    Claim("1b", "control", "And over a frozen random one", "entries of codebook 1 in use, %", "–",
          codecs.anchoring("random"), 2),
    Claim("2", "SACodec, §5", "The SimVQ codebook of residuals is fully used",
          "entries in use, % above 95", "100 %", codecs.residual_in_use),
    Claim("3a", "SACodec, Table 5", "The anchored quantizer helps", STOI,
          "PESQ 2.694 to 2.661 without", codecs.better("anchors", "second alone")),
    Claim("3b", "SACodec, Table 5", "Anchors help over a learnable codebook", STOI,
          "PESQ 2.694 to 2.597", codecs.better("anchors", "learnable")),
    Claim("3c", "SACodec, Table 5", "The residual quantizer helps", STOI,
          "PESQ 2.694 to 2.350 without", codecs.better("anchors", "first alone")),
    Claim("4", "SACodec, Table 4", "Its tokens say more than undistilled ones",
          "phonemes named from codebook 1, points", "ARCH .481 to .377 (EnCodec)",
          codecs.says_more("anchors", "undistilled")),
    Claim("5a", "DS-Codec, Fig. 2", "A mirror has the higher VQ loss", "logarithm of the ratio, %",
          "a figure", codecs.mirrored("vq_loss", 1), 2),
    Claim("5b", "DS-Codec, Fig. 2", "And the lower error of its quantizer",
          "share of the latent's power, logarithm of the ratio, %", "a figure",
          codecs.mirrored("mse", -1), 2),
    Claim("6", "DS-Codec, Table 3", "Two stages beat one of as many steps", STOI,
          "PESQ 2.768 to 2.882, more steps", codecs.better("two stages", "non-mirror")),
    Claim("7", "DS-Codec, Table 1", "PQ and VQ are close", "2 points of STOI less the difference",
          "STOI .941 and .941", codecs.close("two stages, PQ", "two stages", 2)),
    Claim("8", "DS-Codec, §2", "Decoder weights that are kept beat new ones", STOI, "–",
          codecs.better("two stages", "decoder anew")),
    Claim("9", "SpeechTokenizer, Table 1", "Reconstruction is close to that without a teacher",
          "2 points of STOI less the difference", "ViSQOL 4.30; EnCodec 4.37",
          codecs.close("distilled", "undistilled", 2)),
    Claim("10", "SpeechTokenizer, Table 2", "RVQ-1 tells more of the text with a teacher",
          "nats a character", "30.9 to 16.5",
          tokens.informs_more("distilled", "undistilled")),
    Claim("11", "SpeechTokenizer, App.", "A continuous teacher beats pseudo-labels",
          "nats a character", "30.9 to 24.2",
          tokens.informs_more("distilled", "pseudo-labels")),
    Claim("12a", "SpeechTokenizer, Table 4", "Likeness grows with the layers of the reference",
          "cosine × 100, seven layers less one", "0.72 to 0.82", tokens.similarity_grows),
    Claim("12b", "SpeechTokenizer, Table 4", "And so do errors", "phonemes misread, points",
          "WER 2.6 to 35.4", tokens.errors_grow),
    Claim("13a", "SpeechTokenizer, Fig. 5", "RVQ-2:8 clusters by speaker more than RVQ-1",
          "silhouette, RVQ-2:8 less RVQ-1", "a figure", tokens.clusters),
    Claim("13b", "SpeechTokenizer, Fig. 5", "RVQ-1 does not cluster by speaker",
          "0.1 less the silhouette", "a figure", tokens.does_not_cluster),
    Claim("13c", "control", "And by more than without a teacher",
          "13a, distilled less undistilled", "–", tokens.clusters_more),
    Claim("14a", "SpeechTokenizer, Table 3", "Language models speak its tokens more clearly",
          "phonemes misread, points fewer", "WER 6.5 to 7.9",
          models.speaks_better("per", -1)),
    Claim("14b", "SpeechTokenizer, Table 3", "And more in the voice of the prompt",
          "cosine × 100", "0.84 to 0.75", models.speaks_better("speaker_similarity", 1)),
    Claim("15", "CodecSlime, Table 1", "Dynamic 40 Hz beats fixed 40 Hz (VQ)", STOI,
          "STOI .903 to .896", vq["fixed"]),
    Claim("16a", "CodecSlime, Table 2", "Scheduling without adaptation fails (VQ)",
          "STOI, points lost, above 5", "WER 18.6 (FSQ)", codecs.schedule_alone("VQ")),
    Claim("16b", "CodecSlime, Table 2", "Melt and Cool repair it (VQ)", STOI,
          "WER 18.6 to 3.8 (FSQ)", vq["unadapted"]),
    Claim("17", "CodecSlime, Table 2", "Scheduled segments beat uniform ones (VQ)", STOI,
          "WER 4.65 to 3.80 (FSQ)", vq["uniform"]),
    Claim("18a", "CodecSlime, Table 1", "Dynamic 40 Hz beats fixed 40 Hz (FSQ)", STOI,
          "STOI .904 to .891", fsq["fixed"]),
    Claim("18b", "CodecSlime, Table 2", "Scheduling without adaptation fails (FSQ)",
          "STOI, points lost, above 5", "WER 18.6", codecs.schedule_alone("FSQ")),
    Claim("18c", "CodecSlime, Table 2", "Melt and Cool repair it (FSQ)", STOI, "WER 18.6 to 3.8",
          fsq["unadapted"]),
    Claim("18d", "CodecSlime, Table 2", "Scheduled segments beat uniform ones (FSQ)", STOI,
          "WER 4.65 to 3.80", fsq["uniform"]),
    Claim("19a", "DM-Codec, Table 1", "Two teachers beat the speech teacher alone", READ,
          "WER 4.05 to 4.49 (SpeechTokenizer)",
          tokens.reads_better("both teachers", "speech alone", 1), 2),
    Claim("19b", "DM-Codec, Table 1", "And the text teacher alone", READ, "WER 4.05 to 4.36",
          tokens.reads_better("both teachers", "text alone", 1), 2),
    Claim("20a", "DM-Codec, Table 4", "The average of all teacher layers beats the last", READ,
          "WER 4.18 to 4.68", tokens.reads_better("both teachers", "last layers", 1), 2),
    Claim("20b", "DM-Codec, Table 4", "And the ninth", READ, "WER 4.18 to 4.52",
          tokens.reads_better("both teachers", "ninth layers", 1), 2),
    Claim("21a", "DC-Spin, Table 1", "DC-Spin units say less of who speaks than k-means units",
          "readers named, points fewer", "not available",
          models.units_better("DC-Spin", "k-means", "speaker_accuracy", -1), 2),
    Claim("21b", "DC-Spin, Table 1", "And change less with the voice, as they were taught",
          "edits in another voice, points fewer", "not available",
          models.units_better("DC-Spin", "k-means", "voice_ued_units", -1), 2),
    Claim("22a", "DC-Spin, Table 1", "The auxiliary codebook helps: phonemes", "PNMI, points", "–",
          models.units_better("DC-Spin", "Spin", "pnmi", 1)),
    Claim("22b", "DC-Spin, Table 1", "The auxiliary codebook helps: who speaks",
          "readers named, points fewer", "–",
          models.units_better("DC-Spin", "Spin", "speaker_accuracy", -1), 2),
    Claim("22c", "DC-Spin, Table 1", "The auxiliary codebook helps: another voice",
          "edits in another voice, points fewer", "–",
          models.units_better("DC-Spin", "Spin", "voice_ued_units", -1)),
    Claim("23a", "CUHK study", "Features are read better than units of them",
          "phonemes misread, points, 200 units", "words -0.4 to 5.8 points; phonemes the other way",
          tokens.discrete_costs),
    Claim("23b", "CUHK study", "Most where fine detail counts: who speaks",
          "% of what is known beyond chance that 200 units lose, speaker less phonemes",
          "intent and emotion 20 points, words -0.4 to 5.8", tokens.fine_detail),
    Claim("24a", "CUHK study", "Larger codebooks pay", "phonemes misread, 50 to 800 units, points",
          "WER 7.5 to 5.0, 1000 to 3000", tokens.larger_pays),
    Claim("24b", "CUHK study", "With diminishing returns",
          "points gained by the first fourfold, less by the second", "WER 5.02, 5.01 from 2000 on",
          tokens.diminishing),
    Claim("25a", "CUHK study", "Use of tokens is imbalanced",
          "% of use of the rarest fifth of 200 units, below 10", "5 %", tokens.imbalance),
    Claim("25b", "CUHK study", "Rare tokens are read worse",
          "phonemes misread, points more than continuous features there", "a figure",
          tokens.rarity_costs),
    Claim("26", "Edinburgh study", "Discretisation loses tone more than vowels",
          "% of what is known beyond chance, of 100 units", "–", tokens.tone_lost),
    Claim("27", "Cont-SPT, Fig. 3", "Continuous tokens keep more of the high bands",
          "correlation of envelopes, 4 to 8 kHz, × 100", "8 kHz: .55 to .34",
          models.high_bands_kept),
)  # fmt: skip
