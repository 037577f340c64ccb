"""U-Net as it was published, from MONAI's parts; the nets that build on it have files of their own."""

from __future__ import annotations

from monai.networks.nets import BasicUNet

__all__ = ["UNet"]


class UNet(BasicUNet):
    """U-Net (Ronneberger, Fischer, Brox 2015, arXiv 1505.04597): MONAI's `BasicUNet` with the paper's widths.

    Two 3x3 convolutions on each of five levels, max pooling down, 2x2 transposed convolutions up. They are padded, so
    that the size is kept, and batch-normalised, as every later comparison has it. Any size from 16 x 16 is taken: a
    level of odd size is padded on the way up.

    Args:
        spatial_dims: 2; the comparison is one of image networks.
        in_channels: channels of the input.
        out_channels: score maps: 1 for a sigmoid, 2 or more for a softmax.
        width: channels of the first level; the paper's is 64, and everything scales with it.
        dropout: probability of dropping a channel behind each convolution's normalisation.

    Raises:
        ValueError: `spatial_dims` is not 2.

    Example:
        >>> UNet(spatial_dims=2, in_channels=3, out_channels=2, width=8).eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        if spatial_dims != 2:
            raise ValueError(f"UNet works on images: spatial_dims is 2, not {spatial_dims}")
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            features=(width, 2 * width, 4 * width, 8 * width, 16 * width, width),
            act=("relu", {"inplace": True}),
            norm="batch",
            bias=False,
            dropout=dropout,
        )
