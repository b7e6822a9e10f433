"""count_correct: accuracy without noise."""

import torch

from tcertify.classifiers import Classifier
from tcertify.runs import count_correct
from tests.tiny import CLASSES, Network, images


def test_images_are_counted_without_noise_and_no_more_than_the_first():
    data, network = images(50), Network()
    right = [int(network(data[i][0][None]).argmax()) == data[i][1] for i in range(50)]
    classifier = Classifier.of(network, CLASSES)
    assert count_correct(classifier, data, range(50)) == (sum(right), 50)
    assert count_correct(classifier, data, range(10, 50), first=25) == (sum(right[10:35]), 25)


def test_an_image_that_cannot_be_loaded_is_left_out():
    data = [images()[i] for i in range(3)]
    data[1] = torch.zeros(1, 2, 3), 1
    assert count_correct(Classifier.of(Network(), CLASSES), data, range(3))[1] == 2
